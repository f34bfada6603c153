"""The item table: one writer, the thread that folds; everyone else reads an `ItemView`.

Owns ids, vectors, AdaGrad sums, decayed counts, the ring of recent positives and the list of items
seen, and what of it changed since the last snapshot and the last delta. Rows are local to this
process: nothing outside names one but the views that follow this table. A vector starts from the
hash of its id, so the order in which items are interned changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from profiles.blend import new_blend
from profiles.errors import SnapshotBroken
from profiles.facets import MOST_TOKENS, N_FACETS, NOTHING, Description
from profiles.gate import seldom_used
from profiles.groups import GroupTable
from profiles.hashing import HashIndex, item_hash
from profiles.item_columns import (
    CHANGED_BY_OTHERS,
    CHANGED_FOR_DELTA,
    CHANGED_FOR_SNAPSHOT,
    CLOCK_MS,
    HAS_ENTRY,
    LOST_ENTRY,
    N_LEARNED,
    N_RANKABLE,
    N_SEEN,
    NO_ENTRY,
    RING_N,
    RING_NEXT,
    UNKNOWN,
    count_ring,
    grown,
    item_columns,
    mark_others,
)
from profiles.item_columns import ItemColumns as ItemColumns
from profiles.item_snapshot import (
    GROUPS,
    ITEMS,
    LISTS,
    QUERIES,
    SNAPSHOT_VERSION,
    TOKENS,
    Chunk,
    Part,
    SnapshotHeader,
    arrays_of,
    changed_chunks,
    n_chunks,
    ordered_rows,
    put_arrays,
    read_chunk,
    read_header,
    stretch,
)
from profiles.item_snapshot import ItemSnapshot as ItemSnapshot
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
from profiles.queries import N_SWEEPS, QueryTable
from profiles.ratings import new_ratings, put_ratings, ratings_arrays
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
        self.ratings = new_ratings()
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
            ratings=self.ratings,
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

        An entry makes its item rankable, with a row if nobody has had it yet; one that is deleted
        takes it out of all lists, also when somebody has had it or will. Groups and tokens
        get rows while there are any (`groups`, `tokens` say how many), then those that many items
        have (`gate`); an item keeps those that have one. A row that never learned starts anew,
        nearer to what its tokens say.
        """
        first = len(self.ids)
        named = [item_id for item_id, entry in said.items() if entry or item_id in self._row_of]
        rows = self.intern(named)
        self.columns.changed[first : len(self.ids)] |= CHANGED_BY_OTHERS  # no news to others
        entries = [said[item_id] or NOTHING for item_id in named]
        columns = self.columns
        hashes = np.array([entry.groups for entry in entries], np.uint64).reshape(-1, N_FACETS)
        self._tell_groups(rows, hashes)
        words = np.zeros((len(rows), MOST_TOKENS), np.uint64)
        for number, entry in enumerate(entries):
            words[number, : len(entry.tokens)] = entry.tokens
        text = self._token_rows(rows, words)
        known_first = np.argsort(text == UNKNOWN, axis=1, kind="stable")
        columns.text[rows] = np.take_along_axis(text, known_first, axis=1)
        new = rows[(columns.sums[rows] == 0) & (columns.n_positive[rows] == 0)]
        columns.vectors[new] = self._start_vectors(new)
        if self.sharing is not None:
            self.sharing.public["vectors"][new] = columns.vectors[new]
        listed = np.array([said[item_id] is not None for item_id in named], np.bool_)
        columns.entry[rows] = np.where(listed, HAS_ENTRY, LOST_ENTRY)
        self._make_rankable(rows[listed])
        self._make_unrankable(rows[~listed])
        mark_others(self.columns.changed, rows)

    def _token_rows(self, rows: NDArray[np.int32], words: NDArray[np.uint64]) -> NDArray[np.int32]:
        """Rows of the tokens (N, T) that items in `rows` have; some others may lose theirs."""
        tokens, flat = self.tokens, words.ravel()
        found = tokens.intern(flat)
        unknown = np.flatnonzero((found < 0) & (flat != 0))
        if len(unknown):
            owners = self.hashes[rows].repeat(words.shape[1])
            often = tokens.gate.often(flat[unknown], owners[unknown])
            if len(often) > tokens.n_free:
                named, n = self.columns.text[: len(self)], len(tokens)
                taken = _named_in(found, n) | (tokens.columns.hash[:n] == 0)
                sums, most = tokens.columns.sums[:n], tokens.most_at_once
                given_up = seldom_used(named, n, taken, sums, most)
                self._forget(named, given_up, n)
                tokens.give_up(given_up)
            tokens.intern(often, freed=True)
            found = tokens.rows_of(flat)
        return found.reshape(words.shape)

    def _tell_groups(self, rows: NDArray[np.int32], hashes: NDArray[np.uint64]) -> None:
        """The same of groups, (N, N_FACETS), written down."""
        groups, columns = self.groups, self.columns
        found = np.full(hashes.shape, UNKNOWN, np.int32)
        for facet in range(N_FACETS):
            found[:, facet] = groups.intern(hashes[:, facet].copy(), facet)
        for facet in range(N_FACETS):
            of_facet = hashes[:, facet].copy()
            unknown = np.flatnonzero((found[:, facet] < 0) & (of_facet != 0))
            if not len(unknown):
                continue
            often = groups.gate.often(of_facet[unknown], self.hashes[rows[unknown]])
            if len(often) > groups.n_free:
                named, n = columns.facets[: len(self)], len(groups)
                taken = _named_in(found.ravel(), n) | (groups.columns.hash[:n] == 0)
                counts = groups.columns.counts[:n]
                given_up = seldom_used(named, n, taken, counts, groups.most_at_once)
                self._forget(named, given_up, n)
                groups.give_up(given_up)
            groups.intern(often, facet, freed=True)
            found[:, facet] = groups.rows_of(of_facet)
        columns.facets[rows] = found

    def _forget(self, named: NDArray[np.int32], given_up: NDArray[np.int64], n_rows: int) -> None:
        """No item names these rows of tokens or groups any more; tokens move up."""
        dead = np.zeros(n_rows + 1, np.bool_)
        dead[given_up] = True
        hit = dead[named]
        rows = np.flatnonzero(hit.any(axis=1)).astype(np.int32)
        left = np.where(hit[rows], UNKNOWN, named[rows])
        if named.shape[1] == MOST_TOKENS:
            known_first = np.argsort(left == UNKNOWN, axis=1, kind="stable")
            left = np.take_along_axis(left, known_first, axis=1)
        named[rows] = left
        mark_others(self.columns.changed, rows)

    def describe_as(self, other: ItemTable) -> None:
        """The same, of whatever another table was told that isn't so here."""
        entry = other.columns.entry[: len(other)]
        here = self.rows_of_hashes(other.hashes[: len(other)])
        same = (here >= 0) & (self.columns.entry[here] == entry)
        both = np.flatnonzero(same & (entry == HAS_ENTRY)).astype(np.int32)
        for mine, theirs in zip(self._described(here[both]), other._described(both), strict=True):
            same[both] &= (mine == theirs).all(axis=1)
        there = other.rows_of_hashes(self.hashes[: len(self)])
        unknown = (there < 0) | (other.columns.entry[there] == NO_ENTRY)
        gone = np.flatnonzero(unknown & (self.columns.entry[: len(self)] == HAS_ENTRY))
        lost = np.flatnonzero(~same & (entry == LOST_ENTRY))
        said: dict[str, Description | None] = {self.ids[row]: None for row in gone.tolist()}
        said.update((other.ids[row], None) for row in lost.tolist())
        said.update(other._descriptions(np.flatnonzero(~same & (entry == HAS_ENTRY))))
        self.describe(said)

    def descriptions(self) -> dict[str, Description]:
        """The entries that `describe` has told."""
        return self._descriptions(np.flatnonzero(self.columns.entry[: len(self)] == HAS_ENTRY))

    def _descriptions(self, rows: NDArray[Any]) -> dict[str, Description]:
        groups, tokens = self._described(rows)
        return {
            self.ids[row]: Description(tuple(of_groups), tuple(filter(None, of_tokens)))
            for row, of_groups, of_tokens in zip(
                rows.tolist(), groups.tolist(), tokens.tolist(), strict=True
            )
        }

    def _described(self, rows: NDArray[Any]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """Hashes of the items' groups and tokens, 0: none."""
        columns = self.columns
        groups = np.append(self.groups.columns.hash, np.uint64(0))[columns.facets[rows]]
        tokens = np.append(self.tokens.columns.hash, np.uint64(0))[columns.text[rows]]
        return groups, tokens

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
            self.queries.note()
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
        self.queries.share()
        self.journal = journal_for(JOURNAL, self.shape.n_tokens)

    def stop_sharing(self) -> None:
        """Nobody listens: from here on nothing is public, and snapshots hold the table."""
        self.sharing = self.tokens.sharing = self.queries.sharing = None
        self.journal = journal_for(0, self.shape.n_tokens)

    @property
    def oldest_pending(self) -> int | None:
        """The round in which the oldest change was noted that nobody else has; None: none is."""
        oldest = [sharing.oldest for sharing in self._shared()]
        return min((since for since in oldest if since is not None), default=None)

    @property
    def n_pending(self) -> int:
        """Rows of items, tokens and words with changes that nobody else has."""
        return sum(sharing.n_pending for sharing in self._shared())

    def end_round(self) -> None:
        """What is learned from here on is younger than what was pending."""
        for sharing in self._shared():
            sharing.end_round()

    def _shared(self) -> list[Sharing]:
        every = (self.sharing, self.tokens.sharing, self.queries.sharing)
        return [sharing for sharing in every if sharing is not None]

    def take_changes(self, most_rows: int, overdue: int) -> RowChanges | None:
        """Rows to send next, see `Sharing.take`; only for a table that is shared."""
        return _take_changes(self, most_rows, overdue)

    def take_token_changes(self, most_rows: int, overdue: int) -> RowChanges | None:
        """The same of tokens of texts."""
        return _take_changes(self.tokens, most_rows, overdue)

    def take_word_changes(self, most_rows: int, overdue: int) -> RowChanges | None:
        """The same of words of queries."""
        return _take_changes(self.queries, most_rows, overdue)

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
        found = self.rows_of_hashes(changes.hashes)
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
        found = self.tokens.intern(changes.hashes, freed=True)
        places = np.flatnonzero(found >= 0)
        rows = found[places]
        columns = self.tokens.columns
        add_changes(columns._asdict(), TOKEN_COLUMNS, rows, changes, places, 0)
        if self.tokens.sharing is not None:
            self.tokens.sharing.add(self.tokens, rows, changes, places)
        mark_others(columns.changed, rows)
        return len(changes) - len(places)

    def add_word_changes(self, changes: RowChanges) -> int:
        """The same of words of queries; a full table takes no new one."""
        found = self.queries.intern(changes.hashes, self.n_learned)
        places = np.flatnonzero(found >= 0)
        rows = found[places]
        if self.queries.sharing is not None:
            self.queries.note()  # before ours and theirs are one
            self.queries.sharing.add(self.queries, rows, changes, places)
        columns = self.queries.columns
        add_changes(columns._asdict(), TOKEN_COLUMNS, rows, changes, places, 0)
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
            self.rows_of_hashes(positives.hashes),
            self.rows_of_hashes(positives.history.ravel()).reshape(positives.history.shape),
            self._n_short,
        )
        mark_others(self.columns.changed, np.flatnonzero(counted).astype(np.int32))

    def rebase(self, other: ItemTable) -> None:
        """Another snapshot is what is public now; what of ours is pending stays on top of it.

        other: its table, given up. What is no sum is that table's, and our positives that wait to
        be told are counted on it once more. The blend and the raters stay our own.
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
        tokens = self.tokens.intern(other.tokens.hashes[: len(other.tokens)], freed=True)
        lacking = np.setdiff1d(np.arange(len(self.tokens), dtype=np.int32), tokens)
        start = self.tokens.start_vectors(lacking)
        self.tokens.sharing.rebase(tokens, other.tokens.columns, self.tokens, start)
        mark_others(self.tokens.columns.changed, np.arange(len(self.tokens), dtype=np.int32))
        take_lists(self.lists, other.lists, rows)
        take_groups(self.groups, other.groups.columns)
        take_numbers(columns, other.columns, rows, len(self.ids), self._n_short)
        self.queries = take_queries(self.queries, other.queries, rows)
        lost = other.columns.entry[: len(rows)] == LOST_ENTRY
        lost_here = rows[lost & (columns.entry[rows] == NO_ENTRY)]
        columns.entry[lost_here] = LOST_ENTRY
        self._make_unrankable(lost_here)
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
        """Items that can be recommended: seen ones, and those of the catalogue; none that it has
        lost."""
        columns, first = self.columns, int(self.columns.state[N_RANKABLE])
        rows = rows[(columns.rankable_at[rows] == UNKNOWN) & (columns.entry[rows] != LOST_ENTRY)]
        columns.rankable_at[rows] = np.arange(first, first + len(rows))
        columns.rankable[first : first + len(rows)] = rows
        columns.state[N_RANKABLE] += len(rows)

    def _make_unrankable(self, rows: NDArray[np.int32]) -> None:
        """Items that the catalogue has no more; the last ones take their places."""
        columns = self.columns
        for row in rows[columns.rankable_at[rows] != UNKNOWN].tolist():
            place = int(columns.rankable_at[row])
            columns.state[N_RANKABLE] -= 1
            last = int(columns.rankable[columns.state[N_RANKABLE]])
            columns.rankable[place], columns.rankable_at[last] = last, place
            columns.rankable_at[row] = UNKNOWN
            mark_others(columns.changed, np.array([last], np.int32))

    def _see(self, rows: NDArray[np.int32]) -> None:
        """Items with a first positive, which is not older than the newest one is."""
        columns, first = self.columns, self.n_seen
        unnumbered = rows[columns.first_number[rows] == 0]
        columns.first_number[unnumbered] = columns.last_number[unnumbered] = max(1, self.n_learned)
        columns.seen_at[rows] = np.arange(first, first + len(rows))
        columns.seen[first : first + len(rows)] = rows
        columns.state[N_SEEN] += len(rows)
        self._make_rankable(rows)

    def rows_of_hashes(self, hashes: NDArray[np.uint64]) -> NDArray[np.int32]:
        """int32 (N,): the row of each item, -1 for one that isn't there, and for 0."""
        return rows_of_hashes(self._index.keys, self._index.values, hashes)

    def snapshot(self, full: bool = False, public: bool = False) -> ItemSnapshot:
        """The header and the chunks that changed since the last snapshot (`full`: all of them).

        public: rows as everyone knows them, without what is pending.
        What it returns counts as saved: when it could not be written, the next one must be full.
        """
        columns = self.columns
        if public and self.queries.sharing is not None:
            self.queries.note()  # what is public of words has to be where they are
        whole = n_chunks(self._sizes)
        changed = {
            number
            for part, table, n_rows in (
                (ITEMS, columns, len(self)),
                (GROUPS, self.groups.columns, len(self.groups)),
                (TOKENS, self.tokens.columns, len(self.tokens)),
                (QUERIES, self.queries.columns, len(self.queries)),
            )
            for number in changed_chunks(part, table.changed[:n_rows])
        }
        header = SnapshotHeader(
            version=SNAPSHOT_VERSION,
            n_factors=self.shape.n_factors,
            n_items=len(self),
            n_learned=self.n_learned,
            clock_ms=self.clock_ms,
            ring_next=int(columns.state[RING_NEXT]),
            ring=self.hashes[columns.ring[: columns.state[RING_N]]].tobytes(),
            n_groups=len(self.groups),
            n_tokens=len(self.tokens),
            n_queries=len(self.queries),
            n_list=self.lists.rows.shape[1],
            once={name: column.tobytes() for name, column in self._once.items()},
            ratings=ratings_arrays(self.ratings),
        )
        return ItemSnapshot(
            header=msgspec.msgpack.encode(header),
            chunks={n: self._chunk(n, public) for n in (range(whole) if full else sorted(changed))},
            n_chunks=whole,
        )

    def mark_unsaved(self) -> None:
        """Every row must go into the next snapshot: the last one was not written."""
        for table in (self, self.groups, self.tokens, self.queries):
            table.columns.changed[: len(table)] |= CHANGED_FOR_SNAPSHOT

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
            head = read_header(header)
        except msgspec.DecodeError as error:
            raise SnapshotBroken(f"the item snapshot's header can't be read: {error}") from error
        if head.version > SNAPSHOT_VERSION:
            raise SnapshotBroken(
                f"a newer worker wrote the item snapshot (format {head.version}, this one reads up"
                f" to {SNAPSHOT_VERSION}): upgrade this one"
            )
        if head.version < 1 or head.n_factors != shape.n_factors:
            raise SnapshotBroken(
                f"the item snapshot has format {head.version} and {head.n_factors} factors, this"
                f" worker format {SNAPSHOT_VERSION} and {shape.n_factors}; use a new generation"
            )
        table = cls(shape, config, capacity=max(1024, head.n_items))
        table.groups.restore(head.n_groups)
        table.tokens.restore(head.n_tokens)
        table.queries.restore(head.n_queries)
        sizes = {**table._sizes, ITEMS: head.n_items}
        for number in range(n_chunks(sizes)):
            if number not in chunks:
                raise SnapshotBroken(f"the item snapshot lacks chunk {number}")
            try:
                table._take_chunk(number, chunks[number], head, sizes)
            except (msgspec.DecodeError, ValueError) as error:
                raise SnapshotBroken(f"chunk {number} of the item snapshot: {error}") from error
        state = table.columns.state
        state[N_LEARNED], state[CLOCK_MS] = head.n_learned, head.clock_ms
        table._take_once(head)
        table._rebuild_places()
        table._refill_ring(head)
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

    @property
    def _sizes(self) -> dict[Part, int]:
        return {
            ITEMS: len(self),
            GROUPS: len(self.groups),
            TOKENS: len(self.tokens),
            QUERIES: len(self.queries),
        }

    @property
    def _once(self) -> dict[str, NDArray[Any]]:
        """What a snapshot's header holds besides numbers and the ring."""
        blend = self.blend._asdict()
        return {
            **blend,
            "groups": self.groups.columns.totals,
            "queries": self.queries.columns.state[: N_SWEEPS + 1],
        }

    def _chunk(self, number: int, public: bool) -> bytes:
        tables = (self, self.tokens, self.queries)
        items, tokens, queries = (
            table.columns._replace(**table.sharing.public)
            if public and table.sharing is not None
            else table.columns
            for table in tables
        )
        rows = {part: stretch(part, number, n_rows) for part, n_rows in self._sizes.items()}
        return msgspec.msgpack.encode(
            Chunk(
                ids=self.ids[rows[ITEMS]],
                items=arrays_of(ITEMS, items, rows[ITEMS]),
                lists=arrays_of(LISTS, self.lists, rows[ITEMS]),
                groups=arrays_of(GROUPS, self.groups.columns, rows[GROUPS]),
                tokens=arrays_of(TOKENS, tokens, rows[TOKENS]),
                queries=arrays_of(QUERIES, queries, rows[QUERIES]),
            )
        )

    def _take_chunk(
        self, number: int, data: bytes, head: SnapshotHeader, sizes: dict[Part, int]
    ) -> None:
        chunk = read_chunk(head.version, data)
        rows = {part: stretch(part, number, n_rows) for part, n_rows in sizes.items()}
        wanted = rows[ITEMS].stop - rows[ITEMS].start
        if len(chunk.ids) != wanted or len(set(chunk.ids)) != wanted:
            raise ValueError(f"{len(chunk.ids)} ids where {wanted} distinct ones are wanted")
        self._add(chunk.ids)
        put_arrays(ITEMS, self.columns, rows[ITEMS], chunk.items)
        put_arrays(LISTS, self.lists, rows[ITEMS], chunk.lists, head.n_list)
        put_arrays(GROUPS, self.groups.columns, rows[GROUPS], chunk.groups)
        put_arrays(TOKENS, self.tokens.columns, rows[TOKENS], chunk.tokens)
        put_arrays(QUERIES, self.queries.columns, rows[QUERIES], chunk.queries)

    def _take_once(self, head: SnapshotHeader) -> None:
        try:
            for name in head.once:
                column = self._once[name]
                column[...] = np.frombuffer(head.once[name], column.dtype).reshape(column.shape)
            put_ratings(self.ratings, head.ratings)
        except (KeyError, ValueError) as error:
            raise SnapshotBroken(f"the item snapshot's header: {error}") from error
        for table in (self.groups, self.tokens, self.queries):
            table.index()

    def _rebuild_places(self) -> None:
        columns, n = self.columns, len(self.ids)
        try:
            seen = ordered_rows(columns.seen_at[:n])
            rankable = ordered_rows(columns.rankable_at[:n])
        except ValueError as error:
            raise SnapshotBroken("the item snapshot's chunks are of different snapshots") from error
        columns.seen[: len(seen)] = seen
        columns.rankable[: len(rankable)] = rankable
        columns.state[N_SEEN], columns.state[N_RANKABLE] = len(seen), len(rankable)
        self._make_rankable(seen)  # of format 1, which had no such list, and no numbers
        unnumbered = seen[columns.first_number[seen] == 0]
        columns.first_number[unnumbered] = columns.last_number[unnumbered] = max(1, self.n_learned)

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
        columns.state[RING_N] = len(rows)
        columns.state[RING_NEXT] = upcoming % size
        count_ring(columns, len(self.ids), self._n_short)


def _named_in(rows: NDArray[np.int32], n: int) -> NDArray[np.bool_]:
    """bool (n,): whether a row is among these."""
    named = np.zeros(n + 1, np.bool_)
    named[rows] = True
    return named[:n]


def _take_changes(
    table: ItemTable | TokenTable | QueryTable, most_rows: int, overdue: int
) -> RowChanges | None:
    assert table.sharing is not None
    changes = table.sharing.take(table, most_rows, overdue)
    if changes is not None:
        table.columns.changed[table.rows_of_hashes(changes.hashes)] |= CHANGED_FOR_SNAPSHOT
    return changes
