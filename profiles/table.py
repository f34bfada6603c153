"""The profiles of one partition that are in memory: columns by row, and user id -> row.

Knows nothing of items (records hold hashes) and nothing of the store; the updater asks what is
`missing`, loads it, folds, and packs what changed. One thread at a time. What the store refused is
dropped here, for a cached row must never be ahead of its record.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from profiles.half import LARGEST_HALF
from profiles.packed import PackedRecords
from profiles.profile import Profile, ProfileColumns
from profiles.record import check_format, refusal
from profiles.record_batch import most_record_bytes, pack, unpack
from profiles.record_bytes import CORRUPT, OK
from profiles.record_columns import columns_for, profile_at
from profiles.shape import RECORD_VERSION, ModelShape


class ProfileTable:
    """A bounded cache of profiles.

    columns: the arrays that kernels work on; replaced when the table grows.
    record_format: what `pack` writes; it may change between two calls. `load` reads every format,
    also mixed, so a record of an older one is written anew when its user comes back.
    """

    def __init__(
        self, shape: ModelShape, capacity: int = 1024, record_format: int = RECORD_VERSION
    ) -> None:
        """capacity: rows to begin with; the table doubles when they are used up.

        Raises ValueError for a format that this worker can't write.
        """
        self.shape = shape
        self.record_format = record_format
        self.columns: ProfileColumns = columns_for(max(capacity, 1), shape)
        self.last_event: NDArray[np.int32] = np.full(max(capacity, 1), -1, np.int32)
        self._row_of: dict[str, int] = {}
        self._user_at: list[str | None] = []
        self._free: list[int] = []
        self._used_at: NDArray[np.int64] = np.zeros(max(capacity, 1), np.int64)
        self._tick = 0

    def __len__(self) -> int:
        return len(self._row_of)

    def __contains__(self, user_id: str) -> bool:
        return user_id in self._row_of

    @property
    def record_format(self) -> int:
        """The format that `pack` writes. Setting one that can't be written raises ValueError."""
        return self._record_format

    @record_format.setter
    def record_format(self, record_format: int) -> None:
        self._record_format = check_format(record_format, self.shape)

    @property
    def n_bytes(self) -> int:
        """Bytes of the columns, used rows or not."""
        return sum(column.nbytes for column in self.columns)

    @property
    def end_row(self) -> int:
        """One above the highest row ever used."""
        return len(self._user_at)

    def missing(self, user_ids: Iterable[str]) -> list[str]:
        """Distinct ids that are not here, in the order of their first mention.

        Those that are count as used now.
        """
        row_of, rows, absent = self._row_of, [], []
        for user_id in dict.fromkeys(user_ids):
            row = row_of.get(user_id)
            if row is None:
                absent.append(user_id)
            else:
                rows.append(row)
        self._used(rows)
        return absent

    def load(self, user_ids: Sequence[str], records: Sequence[bytes | None]) -> None:
        """Take in records, None for a user never seen (a fresh profile: cold start).

        A user who is here already is overwritten.
        Raises RecordTooNew, RecordCorrupt; then the users up to the bad one are in.
        """
        if len(user_ids) != len(records):
            raise ValueError(f"{len(user_ids)} users, {len(records)} records")
        if not user_ids:
            return
        if b"" in records:
            raise refusal(CORRUPT, user_ids[records.index(b"")])
        rows = self._rows_for(user_ids)
        ends = np.zeros(len(records) + 1, np.int64)
        joined = [record or b"" for record in records]
        np.cumsum([len(record) for record in joined], out=ends[1:])
        data = np.frombuffer(b"".join(joined) or b"\0", np.uint8)
        code, number = unpack(data, ends, rows, self.columns)
        if code != OK:
            self.drop(user_ids[number:])
            raise refusal(code, user_ids[number], joined[number])
        self._round_old(rows, data[np.minimum(ends[:-1], len(data) - 1)])
        self._tick += 1
        self._used_at[rows] = self._tick

    def rows(self, user_ids: Sequence[str]) -> NDArray[np.int32]:
        """int32 (B,): the row of each user. Raises KeyError for one who is not here."""
        return self._used(list(map(self._row_of.__getitem__, user_ids)))

    def known_rows(self, user_ids: Sequence[str]) -> NDArray[np.int32] | None:
        """The same; None when somebody is not here."""
        found = list(map(self._row_of.get, user_ids))
        return None if None in found else self._used(found)

    def _used(self, found: list[int] | list[int | None]) -> NDArray[np.int32]:
        rows = np.array(found, np.int32)
        self._tick += 1
        self._used_at[rows] = self._tick
        return rows

    def user_ids(self, rows: NDArray[np.int32]) -> list[str]:
        """The users of rows that are in use."""
        users = self._user_at
        found = [user_id for row in rows.tolist() if (user_id := users[row]) is not None]
        if len(found) != len(rows):
            raise KeyError("a row that is not in use")
        return found

    def pack(self, rows: NDArray[np.int32]) -> list[bytes]:
        """The records of rows, in their order, in the table's format."""
        return [record for _, record in self.packed(rows)]

    def packed(self, rows: NDArray[np.int32]) -> PackedRecords:
        """The same as one buffer, with the rows' users."""
        ends = np.empty(len(rows) + 1, np.int64)
        out = np.empty(len(rows) * most_record_bytes(self.shape), np.uint8)
        pack(rows, self.columns, self.record_format, out, ends)
        return PackedRecords(self.user_ids(rows), out[: ends[-1]], ends)

    def profile(self, user_id: str) -> Profile:
        """One profile, for people and tests. Raises KeyError."""
        return profile_at(self.columns, self._row_of[user_id])

    def drop(self, user_ids: Iterable[str]) -> None:
        """Forget cached rows; ids that are not here are passed over."""
        for user_id in user_ids:
            row = self._row_of.pop(user_id, None)
            if row is not None:
                self._user_at[row] = None
                self._free.append(row)

    def clear(self) -> None:
        """Forget everything; the memory stays for the next users."""
        self._row_of.clear()
        self._user_at.clear()
        self._free.clear()

    def evict_to(self, limit: int) -> int:
        """Drop the least recently used users until `limit` are left; returns how many went.

        Call it between batches only: what is cached must be in the store.
        """
        surplus = len(self._row_of) - limit
        if surplus <= 0:
            return 0
        rows = np.fromiter(self._row_of.values(), np.int32, len(self._row_of))
        oldest = rows[np.argpartition(self._used_at[rows], surplus - 1)[:surplus]]
        self.drop(self.user_ids(oldest))
        return surplus

    def _round_old(self, rows: NDArray[np.int32], formats: NDArray[np.uint8]) -> None:
        """Long-term vectors of format 1 may be float32: make them what the fold makes of its own.

        At once, not at the next event: else the result depended on when a profile was evicted.
        """
        old = rows[formats == 1]
        if len(old):
            vectors = self.columns.long_term[old].clip(-LARGEST_HALF, LARGEST_HALF)
            self.columns.long_term[old] = vectors.astype(np.float16)

    def _rows_for(self, user_ids: Sequence[str]) -> NDArray[np.int32]:
        row_of, users, free = self._row_of, self._user_at, self._free
        rows = np.empty(len(user_ids), np.int32)
        for number, user_id in enumerate(user_ids):
            row = row_of.get(user_id)
            if row is None:
                if free:
                    row = free.pop()
                    users[row] = user_id
                else:
                    row = len(users)
                    users.append(user_id)
                row_of[user_id] = row
            rows[number] = row
        if len(users) > len(self._used_at):
            self._grow(len(users))
        return rows

    def _grow(self, least: int) -> None:
        old = len(self._used_at)
        capacity = max(2 * old, least)
        bigger = columns_for(capacity, self.shape)
        for name, column in self.columns._asdict().items():
            getattr(bigger, name)[:old] = column
        self.columns = bigger
        self.last_event = np.full(capacity, -1, np.int32)
        used_at = np.zeros(capacity, np.int64)
        used_at[:old] = self._used_at
        self._used_at = used_at
