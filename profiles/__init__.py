"""Arrays and records: the profile, the fold, the item table, the store.

Knows nothing of Kafka, of the application or of Faust.
"""
