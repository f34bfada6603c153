"""Formats 2 and 3 of a record once more, by docs/wire.md, in plain Python and numpy.

Shares no code with `profiles`; the tests hold the compiled writer to it.
"""

from __future__ import annotations

import struct

import numpy as np

from profiles.profile import Profile


def varint(number: int) -> bytes:
    number %= 2**64
    out = bytearray()
    while number >= 128:
        out.append(number % 128 + 128)
        number //= 128
    out.append(number)
    return bytes(out)


def plain_record(profile: Profile, record_format: int) -> bytes:
    """The bytes of a profile of three factors."""
    vector = profile.vector
    if record_format > 2:
        vector = None
    if vector is not None and np.abs(vector).max() < 2.0**-100:
        vector = None
    parts = bytes(
        [
            record_format,
            (1 if profile.pending else 0) + _own_parts(profile),
            (1 if profile.long_term is not None else 0) + (2 if vector is not None else 0),
        ]
    )
    out = parts + varint(3) + _facts(profile) + varint(profile.stamp)
    if profile.long_term is not None:
        out += struct.pack("<f", profile.long_term_sum)
        out += profile.long_term.astype("<f2").tobytes()
    if vector is not None:
        largest = min(np.abs(vector).max(), np.float32(2.0**63))
        scale_bits = _upper_half(np.float32(largest / np.float32(127)))
        scale = np.array([scale_bits << 16], np.uint32).view(np.float32)[0]
        with np.errstate(over="ignore"):
            numbers = np.rint(vector / scale).clip(-127, 127).astype(np.int8)
        out += struct.pack("<H", scale_bits) + numbers.tobytes()
    return out


def _facts(profile: Profile) -> bytes:
    out = varint(profile.last_ms) + varint(profile.last_ms - profile.first_ms)
    out += varint(profile.last_offset + 1)
    out += varint(len(profile.n_by_kind))
    for code, n in sorted(profile.n_by_kind.items()):
        out += bytes([code]) + varint(n)
    out += varint(len(profile.history))
    before_ms, before_weight = profile.last_ms, struct.pack("<f", 1.0)
    for entry in profile.history:
        weight = struct.pack("<f", entry.weight)
        hundredths = [n for n in range(256) if struct.pack("<f", n / 100) == weight]
        if weight == before_weight:
            how, written = 0, b""
        elif hundredths:
            how, written = 1, bytes(hundredths)
        else:
            how, written = 2, weight
        later = entry.time_ms > before_ms
        out += struct.pack("<Q", entry.item_hash)
        out += bytes([entry.kind + 32 * how + 128 * later]) + written
        out += varint(abs(before_ms - entry.time_ms))
        before_ms, before_weight = entry.time_ms, weight
    if profile.pending:
        out += varint(profile.last_ms - profile.pending_ms)
        out += varint(len(profile.pending))
        out += struct.pack(f"<{len(profile.pending)}Q", *profile.pending)
    if _own_parts(profile) & 2:
        out += _own(profile)
    if _own_parts(profile) & 4:
        out += struct.pack("<I", profile.session)
    return out


def _own_parts(profile: Profile) -> int:
    table = profile.n_positive or profile.n_sessions or profile.session_from or profile.own
    return (2 if table else 0) + (4 if profile.session else 0)


def _own(profile: Profile) -> bytes:
    out = varint(profile.n_positive) + varint(profile.n_sessions)
    out += varint((profile.n_positive - profile.session_from) % 2**32) + varint(len(profile.own))
    told, met = [], set()
    for a, entry in enumerate(profile.history):
        short = entry.item_hash % 2**32
        if short not in met:
            met.add(short)
            number = (profile.n_positive - a) % 2**32
            told.append((short, number, entry.time_ms // 60_000))
    number, minute = (profile.n_positive + 1) % 2**32, profile.last_ms // 60_000
    for own in profile.own:
        few = own.times if 1 <= own.times <= 3 else 0
        times = b"" if few else bytes([own.times])
        if told and told[0] == (own.short_hash, own.number, own.minute):
            told.pop(0)
            out += bytes([few + 4]) + times
        else:
            fewer = (number - own.number) % 2**32
            earlier, later = own.minute < minute, own.minute > minute
            out += bytes([few + 8 * (fewer != 1) + 16 * earlier + 32 * later])
            out += struct.pack("<I", own.short_hash) + times
            out += varint(fewer) if fewer != 1 else b""
            out += varint(abs(minute - own.minute)) if earlier or later else b""
        number, minute = own.number, own.minute
    return out


def _upper_half(number: np.float32) -> int:
    """The upper 16 bits of a float32, rounded to nearest, ties to even."""
    bits = int(np.array([number]).view(np.uint32)[0])
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
