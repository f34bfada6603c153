"""Words and whole queries: what is counted after them, what their vectors add, and the bounds."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from profiles.hashing import item_hash
from profiles.queries import (
    N_SWEEPS,
    QueryTable,
    add_words,
    count_query,
    query_rows,
    whole_query,
    words_step,
)
from profiles.reference_catalogue import ReferenceQueries
from tests.profiles.shared_tables import learn, restored, shared_table, take_round

K = 8


def hashes(*words: int) -> NDArray[np.uint64]:
    return np.array(words, np.uint64)


def rows_of(table: QueryTable, *words: int) -> list[int]:
    rows = np.zeros(9, np.int64)
    query_rows(table.columns, hashes(*words), len(words), rows)
    return [int(row) for row in rows[: len(words) + 1]]


def counts_of(table: QueryTable, row: int) -> dict[int, float]:
    n = table.columns.n[row]
    items, counts = table.columns.items[row, :n], table.columns.counts[row, :n]
    return dict(zip(items.tolist(), counts.tolist(), strict=True))


def count(table: QueryTable, words: list[int], item: int, number: int, weight: float = 1) -> None:
    table.reserve(len(words) + 1)
    count_query(table.columns, hashes(*words), len(words), item, weight, number)


def test_counts_and_vectors_are_those_of_the_plain_maths() -> None:
    draws = np.random.default_rng(3)
    table, plain = QueryTable(K, capacity=1), ReferenceQueries(K)
    x = np.zeros(K, np.float32)
    for number in range(1, 200):
        query = draws.choice(np.arange(1, 7), draws.integers(0, 4), replace=False).tolist()
        words, n = hashes(*query), len(query)
        rows = np.zeros(9, np.int64)
        query_rows(table.columns, words, n, rows)
        x[:] = 0
        add_words(table.columns, rows, n, x)
        assert x == pytest.approx(plain.vector(query), abs=1e-4)
        gradient = draws.normal(0, 0.1, K).astype(np.float32)
        table.reserve(n + 1)
        square = float(gradient @ gradient)
        words_step(table.columns, words, n, gradient, square, number)
        plain.step(query, gradient.astype(float))
        count(table, query, number % 100, number, 0.5)
        plain.count(query, number % 100, 0.5)
    for key, counts in plain.counts.items():
        query = list(key) if isinstance(key, tuple) else [key]
        row = rows_of(table, *query)[-1 if isinstance(key, tuple) else 0]
        assert counts_of(table, row) == counts
        assert table.columns.total[row] == plain.totals[key]


def test_a_whole_query_is_its_words_in_any_order() -> None:
    assert whole_query(hashes(5, 9), 2) == whole_query(hashes(9, 5), 2)
    assert whole_query(hashes(5), 1) not in (whole_query(hashes(5, 5), 2), 5)
    table = QueryTable(K)
    count(table, [5, 9], 3, 1)
    assert rows_of(table, 9, 5)[2] == rows_of(table, 5, 9)[2] >= 0
    assert rows_of(table, 5)[1] == -1  # the word is known, the query of it alone is not


def test_without_a_query_nothing_is_counted() -> None:
    table = QueryTable(K)
    count(table, [], 3, 1)
    assert (len(table), rows_of(table)) == (0, [-1])


def test_old_habits_fade() -> None:
    table, plain = QueryTable(K), ReferenceQueries(K)
    for item in (1, 2, 1):
        count(table, [7], item, 1, 900)
        plain.count([7], item, 900)
    assert counts_of(table, rows_of(table, 7)[0]) == plain.counts[7]
    assert plain.totals[7] < 2_000


def test_a_full_table_gives_up_what_was_unused_longest() -> None:
    table = QueryTable(K, capacity=4, most=40)
    for number in range(1, 400):
        count(table, [number, 1_000], number, number)
    assert len(table) <= 40
    assert len(table.columns.hash) == 40
    assert table.columns.state[N_SWEEPS] > 10
    word, often, whole = rows_of(table, 399, 1_000)
    assert counts_of(table, word) == counts_of(table, whole) == {399: 1.0}
    assert table.columns.total[often] == 399
    assert rows_of(table, 5)[0] == -1
    for row in range(len(table)):  # the index names every row that is left
        assert rows_of(table, int(table.columns.hash[row]))[0] == row


def test_room_made_early_or_late_changes_nothing() -> None:
    early, late = QueryTable(K, capacity=40, most=40), QueryTable(K, capacity=1, most=40)
    early.reserve(10_000)
    for number in range(1, 100):
        count(early, [number % 30, 77], number % 5, number)
        count(late, [number % 30, 77], number % 5, number)
    assert len(early) == len(late)
    for name in early.columns._fields[2:]:  # without the index, whose size may differ
        one, other = getattr(early.columns, name), getattr(late.columns, name)
        assert one[: len(early)].tobytes() == other[: len(late)].tobytes(), name


def test_a_table_larger_than_a_snapshot_gives_way_to_it() -> None:
    one = shared_table()
    learn(one, "i", words=["old"])
    take_round(one)
    base = restored(one, public=True)
    for number in range(700):
        learn(one, "i", words=[f"w{number}"])
    take_round(one)
    learn(one, "i", words=["old"])  # pending
    learn(one, "i", words=["new"])
    one.rebase(base)
    assert len(one.queries) == 4  # two words, and the queries of each alone
    message = take_round(one)[2]
    assert message is not None
    assert set(message.hashes.tolist()) == {item_hash("old"), item_hash("new")}


def test_a_word_that_comes_back_after_it_was_given_up_tells_what_it_learned_since() -> None:
    one, anew = shared_table(), shared_table()
    one.queries = QueryTable(4, capacity=8, most=8)
    one.queries.share()
    learn(one, "i", 0.5, words=["a"])
    take_round(one)
    for word in ("b", "c", "d", "e"):
        learn(one, "i", words=[word])
    assert one.queries.rows_of_hashes(hashes(item_hash("a"))).tolist() == [-1]
    for table in (one, anew):
        learn(table, "i", 0.6, words=["a"])
    told, expected = take_round(one)[2], take_round(anew)[2]
    assert told is not None
    assert expected is not None
    at = told.hashes.tolist().index(item_hash("a"))
    for name in ("vectors", "sums"):
        assert told.columns[name][at].tolist() == expected.columns[name][0].tolist()


def test_a_snapshot_counts_no_rows_as_known_elsewhere() -> None:
    one = shared_table()
    learn(one, "i", words=["a"])
    one.take_delta()
    again = restored(one)
    assert again.queries.columns.state.tolist() == [2, 0, 0]
