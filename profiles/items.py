"""The item table: one writer, the thread that folds; everyone else reads an `ItemView`.

Owns ids, vectors, AdaGrad sums, decayed counts, the ring of recent positives and the list of items
seen, and what of it changed since the last snapshot and the last delta. Rows are local to this
process: nothing outside names one but the views that follow this table. A vector starts from the
hash of its id, so the order in which items are interned changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from profiles.blend import new_blend
from profiles.errors import SnapshotBroken
from profiles.facets import MOST_TOKENS, N_FACETS, NOTHING, Description
from profiles.groups import GroupTable
from profiles.hashing import HashIndex, item_hash
from profiles.item_columns import (
    CHANGED_BY_OTHERS,
    CHANGED_FOR_DELTA,
    CHANGED_FOR_SNAPSHOT,
    CLOCK_MS,
    N_LEARNED,
    N_RANKABLE,
    N_SEEN,
    RING_N,
    RING_NEXT,
    UNKNOWN,
    grown,
    item_columns,
    mark_others,
)
from profiles.item_columns import ItemColumns as ItemColumns
from profiles.learned import (
    JOURNAL,
    N_NOTED,
    Learned,
    Positives,
    count_told,
    journal_for,
    positives_in,
)
from profiles.lists import grown_lists, lists_for
from profiles.model import Model
from profiles.model_delta import take_model_delta
from profiles.negatives import start_vectors
from profiles.queries import QueryTable
from profiles.rebase import take_groups, take_lists, take_numbers, take_queries
from profiles.scratch import Scratch, scratch_for
from profiles.shape import FoldConfig, ModelShape
from profiles.sharing import (
    TOKEN_COLUMNS,
    RowChanges,
    Sharing,
    add_changes,
    item_additive,
    rows_of_hashes,
)
from profiles.tokens import DESCRIBED_DEVIATION, TokenTable
from profiles.view import ItemDelta as ItemDelta
from profiles.view import ItemView as ItemView

START_DEVIATION = 0.2
"""Standard deviation of a start vector's numbers (docs/model.md)."""

CHUNK_ROWS = 4096
"""Rows of a snapshot chunk: 1 MB of vectors at K = 64, a small value for the store."""

SNAPSHOT_VERSION = 1


class SnapshotHeader(msgspec.Struct, frozen=True, array_like=True):
    """What a snapshot holds once.

    ring: item hashes (rows would be local), each at its place, for draws name places; ring_next:
    the place of the next one.
    """

    version: int
    n_factors: int
    n_items: int
    n_learned: int
    clock_ms: int
    ring_next: int
    ring: bytes


class SnapshotChunk(msgspec.Struct, frozen=True, array_like=True):
    """CHUNK_ROWS items, the last chunk fewer; columns as little-endian arrays."""

    ids: list[str]
    vectors: bytes
    sums: bytes
    counts: bytes
    count_ms: bytes
    n_positive: bytes
    seen_at: bytes


@dataclass(frozen=True, slots=True)
class ItemSnapshot:
    """header and the changed chunks by number; n_chunks: of the whole table."""

    header: bytes
    chunks: dict[int, bytes]
    n_chunks: int


class ItemTable:
    """All items of one fold process. Not safe for two threads at once."""

    def __init__(self, shape: ModelShape, config: FoldConfig, capacity: int = 1024) -> None:
        self.shape = shape
        self.config = config
        self.ids: list[str] = []
        self._row_of: dict[str, int] = {}
        self._index = HashIndex(capacity)
        self.hashes: NDArray[np.uint64] = np.zeros(capacity, np.uint64)
        self.columns = item_columns(
            capacity, shape.n_factors, config.n_ring, self._index.keys, self._index.values
        )
        self.lists = lists_for(capacity, config.n_list)
        self.groups = GroupTable()
        self.tokens = TokenTable(shape.n_factors)
        self.queries = QueryTable(shape.n_factors)
        self.blend = new_blend()
        self._scratch: tuple[tuple[int, ...], Scratch] | None = None
        self.journal: Learned = journal_for(0, shape.n_tokens)
        self.sharing: Sharing | None = None
        self._n_in_delta = 0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def n_learned(self) -> int:
        """Positive interactions learned, ever."""
        return int(self.columns.state[N_LEARNED])

    @property
    def n_seen(self) -> int:
        """Items with at least one positive interaction."""
        return int(self.columns.state[N_SEEN])

    @property
    def clock_ms(self) -> int:
        """The largest event time folded into this table."""
        return int(self.columns.state[CLOCK_MS])

    @property
    def model(self) -> Model:
        """All that kernels take; anew after anything was interned, for arrays grow."""
        return Model(
            items=self.columns,
            lists=self.lists,
            groups=self.groups.columns,
            tokens=self.tokens.columns,
            queries=self.queries.columns,
            blend=self.blend,
        )

    def scratch(self, config: FoldConfig) -> Scratch:
        """Memory for a call of the kernel, the same as long as it is large enough."""
        n_items, n_groups = len(self.hashes), len(self.groups.columns.hash)
        sizes = (n_items, n_groups, config.n_recent, config.n_uniform)
        if self._scratch is None or self._scratch[0] != sizes:
            self._scratch = sizes, scratch_for(config, n_items, n_groups)
        return self._scratch[1]

    def intern(self, item_ids: Sequence[str]) -> NDArray[np.int32]:
        """int32 (B,): the row of each item; an id never seen gets a row and its start vector."""
        row_of = self._row_of
        rows = list(map(row_of.get, item_ids))
        if None in rows:
            self._add([i for i in dict.fromkeys(item_ids) if i not in row_of])
            rows = list(map(row_of.get, item_ids))
        return np.array(rows, np.int32)

    def describe(self, said: Mapping[str, Description | None]) -> None:
        """What the catalogue says of items from here on; None: it has them no more.

        An entry makes its item rankable, with a row if nobody has had it yet. Groups and tokens
        get rows while there are any (`groups`, `tokens` say how many); an item keeps those that
        have one. A row that never learned starts anew, nearer to what its tokens say.
        """
        first = len(self.ids)
        named = [item_id for item_id, entry in said.items() if entry or item_id in self._row_of]
        rows = self.intern(named)
        self.columns.changed[first : len(self.ids)] |= CHANGED_BY_OTHERS  # no news to others
        entries = [said[item_id] or NOTHING for item_id in named]
        columns = self.columns
        hashes = np.array([entry.groups for entry in entries], np.uint64).reshape(-1, N_FACETS)
        for facet in range(N_FACETS):
            columns.facets[rows, facet] = self.groups.intern(hashes[:, facet].copy(), facet)
        words = np.zeros((len(rows), MOST_TOKENS), np.uint64)
        for number, entry in enumerate(entries):
            words[number, : len(entry.tokens)] = entry.tokens
        text = self.tokens.intern(words.ravel()).reshape(words.shape)
        known_first = np.argsort(text == UNKNOWN, axis=1, kind="stable")
        columns.text[rows] = np.take_along_axis(text, known_first, axis=1)
        new = rows[(columns.sums[rows] == 0) & (columns.n_positive[rows] == 0)]
        columns.vectors[new] = self._start_vectors(new)
        if self.sharing is not None:
            self.sharing.public["vectors"][new] = columns.vectors[new]
        listed = np.array([said[item_id] is not None for item_id in named], np.bool_)
        self._make_rankable(rows[listed])
        for row in rows[~listed & (columns.seen_at[rows] == UNKNOWN)].tolist():
            self._make_unrankable(row)
        mark_others(self.columns.changed, rows)

    def descriptions(self) -> dict[str, Description]:
        """What `describe` has said, for another table; not of items that nothing was said of."""
        columns = self.columns
        rows = columns.rankable[: columns.state[N_RANKABLE]]
        said = (columns.facets[rows] != UNKNOWN).any(axis=1) | (columns.text[rows, 0] != UNKNOWN)
        rows = rows[said | (columns.seen_at[rows] == UNKNOWN)]
        groups = np.append(self.groups.columns.hash, np.uint64(0))[columns.facets[rows]]
        tokens = np.append(self.tokens.columns.hash, np.uint64(0))[columns.text[rows]]
        return {
            self.ids[row]: Description(tuple(of_groups), tuple(filter(None, of_tokens)))
            for row, of_groups, of_tokens in zip(
                rows.tolist(), groups.tolist(), tokens.tolist(), strict=True
            )
        }

    def row(self, item_id: str) -> int | None:
        """The row of an item, or None."""
        return self._row_of.get(item_id)

    def take_delta(self) -> ItemDelta:
        """What changed since the last call, copied, in the thread that folds.

        The first delta of a table, restored ones too, begins at row 0 and holds every row: a view
        that gets it starts over. So one caller takes deltas and gives each to all views.
        Of a table that is shared, what changed here is pending for others from now on.
        """
        columns, n = self.columns, len(self.ids)
        rows = np.flatnonzero(columns.changed[:n] & CHANGED_FOR_DELTA).astype(np.int32)
        if self.sharing is not None:
            self.sharing.note(rows[columns.changed[rows] & CHANGED_BY_OTHERS == 0])
            self._note_tokens()
        columns.changed[rows] &= 0xFF ^ (CHANGED_FOR_DELTA | CHANGED_BY_OTHERS)
        first_new, self._n_in_delta = self._n_in_delta, n
        return ItemDelta(
            first_new=first_new,
            new_ids=self.ids[first_new:],
            model=take_model_delta(self.model, rows, n, everything=first_new == 0),
        )

    def share(self) -> None:
        """Keep account of what others don't know; everything so far counts as known to all."""
        self.sharing = Sharing(self, item_additive(self.config))
        self.tokens.sharing = Sharing(self.tokens, TOKEN_COLUMNS, named=False)
        self.journal = journal_for(JOURNAL, self.shape.n_tokens)

    def stop_sharing(self) -> None:
        """Nobody listens: from here on nothing is public, and snapshots hold the table."""
        self.sharing = self.tokens.sharing = None
        self.journal = journal_for(0, self.shape.n_tokens)

    @property
    def oldest_pending(self) -> int | None:
        """The round in which the oldest change was noted that nobody else has; None: none is."""
        oldest = [sharing.oldest for sharing in self._shared()]
        return min((since for since in oldest if since is not None), default=None)

    @property
    def n_pending(self) -> int:
        """Rows of items and of tokens with changes that nobody else has."""
        return sum(sharing.n_pending for sharing in self._shared())

    def end_round(self) -> None:
        """What is learned from here on is younger than what was pending."""
        for sharing in self._shared():
            sharing.end_round()

    def _shared(self) -> list[Sharing]:
        return [s for s in (self.sharing, self.tokens.sharing) if s is not None]

    def take_changes(self, most_rows: int, overdue: int) -> RowChanges | None:
        """Rows to send next, see `Sharing.take`; only for a table that is shared."""
        assert self.sharing is not None
        changes = self.sharing.take(self, most_rows, overdue)
        if changes is not None:
            rows = self._rows_of_hashes(changes.hashes)
            self.columns.changed[rows] |= CHANGED_FOR_SNAPSHOT
        return changes

    def take_token_changes(self, most_rows: int, overdue: int) -> RowChanges | None:
        """The same of tokens of texts."""
        assert self.tokens.sharing is not None
        return self.tokens.sharing.take(self.tokens, most_rows, overdue)

    @property
    def n_positives_pending(self) -> int:
        """Learned here and not told yet."""
        return int(self.journal.state[N_NOTED])

    def take_positives(self, most: int) -> Positives:
        """What was learned from here since the last call; of more than `most` a sample."""
        positives = positives_in(self.journal, self.hashes, most)
        self.journal.state[N_NOTED] = 0
        return positives

    def add_changes(self, changes: RowChanges) -> int:
        """Others' learning, between two batches. Returns how many rows could not be placed."""
        columns, state = self.columns, self.columns.state
        state[CLOCK_MS] = max(state[CLOCK_MS], changes.clock_ms)
        new = [item_id for item_id in changes.new_ids.values() if item_id not in self._row_of]
        if new:
            self._add(new)
            columns = self.columns
            rows = np.arange(len(self.ids) - len(new), len(self.ids), dtype=np.int32)
            columns.changed[rows] |= CHANGED_BY_OTHERS
        found = self._rows_of_hashes(changes.hashes)
        places = np.flatnonzero(found >= 0)
        rows = found[places]
        additive = item_additive(self.config)
        add_changes(columns._asdict(), additive, rows, changes, places, self.clock_ms)
        if self.sharing is not None:
            self.sharing.add(self, rows, changes, places)
        mark_others(self.columns.changed, rows)
        self._see(rows[(columns.seen_at[rows] < 0) & (columns.n_positive[rows] > 0)])
        return len(changes) - len(places)

    def add_token_changes(self, changes: RowChanges) -> int:
        """The same of tokens, which get a row here if nothing was described by them yet."""
        found = self.tokens.intern(changes.hashes)
        places = np.flatnonzero(found >= 0)
        rows = found[places]
        columns = self.tokens.columns
        add_changes(columns._asdict(), TOKEN_COLUMNS, rows, changes, places, 0)
        if self.tokens.sharing is not None:
            self.tokens.sharing.add(self.tokens, rows, changes, places)
        mark_others(columns.changed, rows)
        return len(changes) - len(places)

    def add_positives(self, positives: Positives) -> None:
        """Others' positives: counted as our own, and drawn as negatives here too."""
        self.queries.reserve(len(positives.words) + len(positives))
        counted = np.zeros(len(self.hashes), np.uint8)
        model = self.model._replace(items=self.columns._replace(changed=counted))
        count_told(
            model,
            positives,
            self._rows_of_hashes(positives.hashes),
            self._rows_of_hashes(positives.history.ravel()).reshape(positives.history.shape),
            self._n_short,
        )
        mark_others(self.columns.changed, np.flatnonzero(counted).astype(np.int32))

    def rebase(self, other: ItemTable) -> None:
        """Another snapshot is what is public now; what of ours is pending stays on top of it.

        other: its table, given up. What is no sum is that table's, and our positives that wait to
        be told are counted on it once more. The blend stays our own.
        """
        assert self.sharing is not None
        assert self.tokens.sharing is not None
        columns, state = self.columns, self.columns.state
        state[CLOCK_MS] = max(self.clock_ms, other.clock_ms)
        first = len(self.ids)
        rows = self.intern(other.ids)
        columns = self.columns
        columns.changed[first : len(self.ids)] |= CHANGED_BY_OTHERS
        lacking = np.setdiff1d(np.arange(len(self.ids), dtype=np.int32), rows)
        self.sharing.rebase(rows, other.columns, self, self._start_vectors(lacking))
        tokens = self.tokens.intern(other.tokens.hashes[: len(other.tokens)])
        lacking = np.setdiff1d(np.arange(len(self.tokens), dtype=np.int32), tokens)
        start = self.tokens.start_vectors(lacking)
        self.tokens.sharing.rebase(tokens, other.tokens.columns, self.tokens, start)
        mark_others(self.tokens.columns.changed, np.arange(len(self.tokens), dtype=np.int32))
        take_lists(self.lists, other.lists, rows)
        take_groups(self.groups, other.groups.columns)
        take_numbers(columns, other.columns, rows, len(self.ids), self._n_short)
        self.queries = take_queries(self.queries, other.queries, rows)
        self._see(rows[(columns.seen_at[rows] < 0) & (columns.n_positive[rows] > 0)])
        mark_others(columns.changed, np.arange(len(self.ids), dtype=np.int32))
        self.add_positives(positives_in(self.journal, self.hashes, JOURNAL))
        self.mark_unsaved()

    @property
    def _n_short(self) -> int:
        return min(self.config.n_ring_short, self.config.n_ring)

    def _note_tokens(self) -> None:
        """Tokens that the kernel changed are pending."""
        assert self.tokens.sharing is not None
        changed = self.tokens.columns.changed
        bits = changed & (CHANGED_FOR_DELTA | CHANGED_BY_OTHERS)
        self.tokens.sharing.note(np.flatnonzero(bits == CHANGED_FOR_DELTA).astype(np.int32))

    def _start_vectors(self, rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """What rows are before they learn: it depends on their ids, and on whether they have text.

        Shape (N, K).
        """
        described = self.columns.text[rows, 0] != UNKNOWN
        start = np.zeros((len(rows), self.shape.n_factors), np.float32)
        start_vectors(start, self.hashes[rows], 0, START_DEVIATION)
        start[described] *= np.float32(DESCRIBED_DEVIATION / START_DEVIATION)
        return start

    def _make_rankable(self, rows: NDArray[np.int32]) -> None:
        """Items that can be recommended: seen ones, and those of the catalogue."""
        columns, first = self.columns, int(self.columns.state[N_RANKABLE])
        rows = rows[columns.rankable_at[rows] == UNKNOWN]
        columns.rankable_at[rows] = np.arange(first, first + len(rows))
        columns.rankable[first : first + len(rows)] = rows
        columns.state[N_RANKABLE] += len(rows)

    def _make_unrankable(self, row: int) -> None:
        """An item that nobody has had and the catalogue has no more; the last takes its place."""
        columns, place = self.columns, int(self.columns.rankable_at[row])
        if place == UNKNOWN:
            return
        columns.state[N_RANKABLE] -= 1
        last = columns.rankable[columns.state[N_RANKABLE]]
        columns.rankable[place], columns.rankable_at[last] = last, place
        columns.rankable_at[row] = UNKNOWN

    def _see(self, rows: NDArray[np.int32]) -> None:
        """Items with a first positive, which is not older than the newest one is."""
        columns, first = self.columns, self.n_seen
        unnumbered = rows[columns.first_number[rows] == 0]
        columns.first_number[unnumbered] = columns.last_number[unnumbered] = max(1, self.n_learned)
        columns.seen_at[rows] = np.arange(first, first + len(rows))
        columns.seen[first : first + len(rows)] = rows
        columns.state[N_SEEN] += len(rows)
        self._make_rankable(rows)

    def _rows_of_hashes(self, hashes: NDArray[np.uint64]) -> NDArray[np.int32]:
        return rows_of_hashes(self._index.keys, self._index.values, hashes)

    def snapshot(self, full: bool = False, public: bool = False) -> ItemSnapshot:
        """The header and the chunks that changed since the last snapshot (`full`: all of them).

        public: rows as everyone knows them, without what is pending.
        What it returns counts as saved: when it could not be written, the next one must be full.
        """
        columns, n = self.columns, len(self.ids)
        n_chunks = -(-n // CHUNK_ROWS)
        if full:
            numbers = list(range(n_chunks))
        else:
            changed = np.flatnonzero(columns.changed[:n] & CHANGED_FOR_SNAPSHOT)
            numbers = np.unique(changed // CHUNK_ROWS).tolist()
        columns.changed[:n] &= 0xFF ^ CHANGED_FOR_SNAPSHOT
        header = SnapshotHeader(
            version=SNAPSHOT_VERSION,
            n_factors=self.shape.n_factors,
            n_items=n,
            n_learned=self.n_learned,
            clock_ms=self.clock_ms,
            ring_next=int(columns.state[RING_NEXT]),
            ring=self.hashes[columns.ring[: columns.state[RING_N]]].tobytes(),
        )
        return ItemSnapshot(
            header=msgspec.msgpack.encode(header),
            chunks={number: self._chunk(number, public) for number in numbers},
            n_chunks=n_chunks,
        )

    def mark_unsaved(self) -> None:
        """Every row must go into the next snapshot: the last one was not written."""
        self.columns.changed[: len(self.ids)] |= CHANGED_FOR_SNAPSHOT

    @classmethod
    def restore(
        cls,
        shape: ModelShape,
        config: FoldConfig,
        header: bytes,
        chunks: dict[int, bytes],
    ) -> ItemTable:
        """The table as it was when all the chunks of the header's snapshot were taken.

        Raises SnapshotBroken, which names the chunk. The first delta after it holds every row.
        """
        try:
            head = msgspec.msgpack.decode(header, type=SnapshotHeader)
        except msgspec.DecodeError as error:
            raise SnapshotBroken(f"the item snapshot's header can't be read: {error}") from error
        if head.version != SNAPSHOT_VERSION or head.n_factors != shape.n_factors:
            raise SnapshotBroken(
                f"the item snapshot has format {head.version} and {head.n_factors} factors, this"
                f" worker format {SNAPSHOT_VERSION} and {shape.n_factors}; use a new generation"
            )
        table = cls(shape, config, capacity=max(1024, head.n_items))
        for number in range(-(-head.n_items // CHUNK_ROWS)):
            if number not in chunks:
                raise SnapshotBroken(f"the item snapshot lacks chunk {number}")
            table._take_chunk(number, chunks[number], head.n_items)
        table._rebuild_seen()
        table._refill_ring(head)
        state = table.columns.state
        state[N_LEARNED], state[CLOCK_MS] = head.n_learned, head.clock_ms
        table.columns.changed[: len(table.ids)] = CHANGED_FOR_DELTA | CHANGED_BY_OTHERS
        return table

    def _add(self, new_ids: list[str]) -> None:
        first = len(self.ids)
        hashes = np.fromiter(map(item_hash, new_ids), np.uint64, len(new_ids))
        self._reserve(first + len(new_ids))
        self._index.append(hashes)
        self.columns = self.columns._replace(
            index_keys=self._index.keys, index_values=self._index.values
        )
        self.hashes[first : first + len(new_ids)] = hashes
        start_vectors(self.columns.vectors, hashes, first, START_DEVIATION)
        self.columns.changed[first : first + len(new_ids)] = (
            CHANGED_FOR_DELTA | CHANGED_FOR_SNAPSHOT
        )
        if self.sharing is not None:
            self.sharing.begin(first, self.columns.vectors[first : first + len(new_ids)])
        self.ids.extend(new_ids)
        self._row_of.update(zip(new_ids, range(first, first + len(new_ids)), strict=True))

    def _reserve(self, least: int) -> None:
        old = len(self.hashes)
        if least <= old:
            return
        capacity = max(2 * old, least)
        hashes = np.zeros(capacity, np.uint64)
        hashes[:old] = self.hashes
        self.hashes = hashes
        self.columns = grown(self.columns, capacity)
        self.lists = grown_lists(self.lists, capacity)
        if self.sharing is not None:
            self.sharing.grow(capacity)

    def _chunk(self, number: int, public: bool) -> bytes:
        rows = slice(number * CHUNK_ROWS, min((number + 1) * CHUNK_ROWS, len(self.ids)))
        columns = self.columns
        if public and self.sharing is not None:
            columns = columns._replace(**self.sharing.public)
        return msgspec.msgpack.encode(
            SnapshotChunk(
                ids=self.ids[rows],
                vectors=columns.vectors[rows].tobytes(),
                sums=columns.sums[rows].tobytes(),
                counts=columns.counts[rows].tobytes(),
                count_ms=columns.count_ms[rows].tobytes(),
                n_positive=columns.n_positive[rows].tobytes(),
                seen_at=columns.seen_at[rows].tobytes(),
            )
        )

    def _take_chunk(self, number: int, data: bytes, n_items: int) -> None:
        first = number * CHUNK_ROWS
        n = min(CHUNK_ROWS, n_items - first)
        columns = self.columns
        try:
            chunk = msgspec.msgpack.decode(data, type=SnapshotChunk)
            if len(chunk.ids) != n or len(set(chunk.ids)) != n:
                raise ValueError(f"{len(chunk.ids)} ids where {n} distinct ones are wanted")
            self._add(chunk.ids)
            columns = self.columns
            vectors = np.frombuffer(chunk.vectors, np.float32)
            columns.vectors[first : first + n] = vectors.reshape(n, self.shape.n_factors)
            columns.sums[first : first + n] = np.frombuffer(chunk.sums, np.float32)
            columns.counts[first : first + n] = np.frombuffer(chunk.counts, np.float64)
            columns.count_ms[first : first + n] = np.frombuffer(chunk.count_ms, np.int64)
            columns.n_positive[first : first + n] = np.frombuffer(chunk.n_positive, np.int64)
            columns.seen_at[first : first + n] = np.frombuffer(chunk.seen_at, np.int32)
        except (msgspec.DecodeError, ValueError) as error:
            raise SnapshotBroken(f"chunk {number} of the item snapshot: {error}") from error

    def _rebuild_seen(self) -> None:
        columns, n = self.columns, len(self.ids)
        rows = np.flatnonzero(columns.seen_at[:n] >= 0)
        places = columns.seen_at[rows]
        if not np.array_equal(np.sort(places), np.arange(len(rows))):
            raise SnapshotBroken("the item snapshot's chunks are of different snapshots")
        columns.seen[places] = rows
        columns.state[N_SEEN] = len(rows)
        self._make_rankable(columns.seen[: len(rows)])

    def _refill_ring(self, head: SnapshotHeader) -> None:
        """Put the ring's hashes back as rows; with another `n_ring`, the newest of them."""
        columns = self.columns
        size = len(columns.ring)
        hashes = np.frombuffer(head.ring, np.uint64)
        rows = np.fromiter(map(self._index.get, hashes.tolist()), np.int32, len(hashes))
        if (rows < 0).any() or not 0 <= head.ring_next <= len(rows):
            raise SnapshotBroken("the item snapshot's ring names an item that no chunk holds")
        upcoming = head.ring_next
        if (len(rows) != size) and (len(rows) > size or upcoming != len(rows)):
            rows = np.roll(rows, -upcoming)[-size:]  # oldest first
            upcoming = len(rows)
        columns.ring[: len(rows)] = rows
        columns.ring_count[: len(self.ids)] = np.bincount(rows, minlength=len(self.ids))
        columns.state[RING_N] = len(rows)
        columns.state[RING_NEXT] = upcoming % size
