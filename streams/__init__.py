"""Bytes and offsets: topics, events, batches, and the embedded servers.

Knows nothing of profiles, of the application or of Faust.
"""
