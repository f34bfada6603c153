"""Tables that are shared, and one positive or one round at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from profiles.hashing import item_hash
from profiles.item_columns import CLOCK_MS
from profiles.items import ItemTable
from profiles.learned import Positives, count_positive, note_positive
from profiles.popularity import count_item
from profiles.queries import words_step
from profiles.scratch import speeds_of
from profiles.shape import FoldConfig, ModelShape
from profiles.sharing import RowChanges

CONFIG = FoldConfig(
    shape=ModelShape(n_factors=4), n_ring=8, n_ring_short=3, popularity_half_life_s=10.0
)
ALL, NOTHING_OVERDUE = 10**9, -1


def shared_table() -> ItemTable:
    """An empty table that is shared, with room for one row."""
    table = ItemTable(CONFIG.shape, CONFIG, capacity=1)
    table.share()
    return table


def learn(
    table: ItemTable,
    item_id: str,
    by: float = 0.1,
    at_ms: int = 0,
    after: Sequence[str] = (),
    words: Sequence[str] = (),
    weight: float = 1.0,
    begins: bool = False,
) -> None:
    """One positive as the kernel does it, but for the vectors, which move by `by`.

    after: the items before it, newest first. words: of the query pending.
    """
    row = int(table.intern([item_id])[0])
    history = np.array([table.row(item) for item in after], np.int64)
    hashes = np.array([item_hash(word) for word in words], np.uint64)
    table.queries.reserve(len(hashes) + 1)
    model, n, n_words = table.model, len(history), len(hashes)
    columns = model.items
    columns.state[CLOCK_MS] = max(columns.state[CLOCK_MS], at_ms)
    columns.vectors[row] += np.float32(by)
    columns.sums[row] += np.float32(by * by)
    amount, gradient = np.float32(weight), np.full(len(columns.vectors[0]), -by, np.float32)
    square, number = np.float32(gradient @ gradient), table.n_learned + 1
    words_step(model.queries, hashes, n_words, gradient, square, number)
    note_positive(table.journal, row, history, n, amount, hashes, n_words)
    count_item(columns, row, amount, begins, speeds_of(table.config))
    n_short = min(table.config.n_ring_short, table.config.n_ring)
    count_positive(model, row, history, n, amount, hashes, n_words, n_short)


def take(table: ItemTable, most: int = ALL) -> RowChanges | None:
    """One round's rows."""
    table.take_delta()
    changes = table.take_changes(most, NOTHING_OVERDUE)
    table.end_round()
    return changes


def give(source: ItemTable, *targets: ItemTable, most: int = ALL) -> int:
    """One round's rows from one table to others; returns how many went."""
    changes = take(source, most)
    if changes is None:
        return 0
    for target in targets:
        assert target.add_changes(changes) == 0
    return len(changes)


Round = tuple[RowChanges | None, RowChanges | None, RowChanges | None, Positives]


def take_round(table: ItemTable, most_positives: int = ALL) -> Round:
    """A whole round: rows, tokens, words, positives."""
    table.take_delta()
    message = (
        table.take_changes(ALL, NOTHING_OVERDUE),
        table.take_token_changes(ALL, NOTHING_OVERDUE),
        table.take_word_changes(ALL, NOTHING_OVERDUE),
        table.take_positives(most_positives),
    )
    table.end_round()
    return message


def add_round(table: ItemTable, message: Round) -> None:
    """As a receiver does."""
    rows, tokens, words, positives = message
    if rows is not None:
        assert table.add_changes(rows) == 0
    if tokens is not None:
        assert table.add_token_changes(tokens) == 0
    if words is not None:
        assert table.add_word_changes(words) == 0
    table.add_positives(positives)


def by_id(table: ItemTable, column: str) -> dict[str, object]:
    """A column's values by item."""
    values = getattr(table.columns, column)[: len(table)].tolist()
    return dict(zip(table.ids, values, strict=True))


def restored(table: ItemTable, *, public: bool = False) -> ItemTable:
    """The table as it comes back from a whole snapshot."""
    saved = table.snapshot(full=True, public=public)
    return ItemTable.restore(CONFIG.shape, CONFIG, saved.header, saved.chunks)
