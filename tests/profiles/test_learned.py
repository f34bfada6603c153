"""What is no sum is told as positives: counted elsewhere as here, whatever base and message."""

from __future__ import annotations

import numpy as np
import pytest

from profiles.blend import ALL as EVERYWHERE
from profiles.blend import QUERY, average_theta, new_blend
from profiles.facets import describe
from profiles.groups import N_GROUPS
from profiles.hashing import item_hash
from profiles.item_columns import RING_N, RING_NEXT
from profiles.items import ItemTable
from profiles.learned import JOURNAL, MOST_TIMES
from profiles.queries import N_QUERIES, N_SWEEPS, QueryTable
from profiles.sharing import Sharing
from profiles.view import ItemView
from tests.profiles.shared_tables import (
    CONFIG,
    add_round,
    by_id,
    learn,
    restored,
    shared_table,
    take_round,
)

ENTRIES = {
    f"i{number}": describe(f"thing {number % 3}", ["home", f"c{number % 4}"], f"b{number % 2}", 9.0)
    for number in range(12)
}


class Shoppers:
    """Random positives of a few users; all of them on any table, so two tables can be compared."""

    def __init__(self, seed: int, n_users: int = 5) -> None:
        self._random = np.random.default_rng(seed)
        self._history: list[list[str]] = [[] for _ in range(n_users)]

    def shop(self, n: int, *tables: ItemTable, items: int = 12) -> None:
        """n positives, each learned by every table."""
        for _ in range(n):
            user, item, searched = self._random.integers([len(self._history), items, 3])
            item_id, history = f"i{item}", self._history[user]
            words = ["red", f"thing{item % 3}"] if searched == 0 else []
            for table in tables:
                for before in history:
                    table.intern([before])
                learn(table, item_id, after=history, words=words, begins=not history)
            self._history[user] = [item_id, *history][:10]


def lists(table: ItemTable) -> dict[tuple[str, str], tuple[float, float]]:
    """Neighbours: (item, neighbour) -> forward and backward count."""
    return {
        (table.ids[row], table.ids[table.lists.rows[row, entry]]): (
            float(table.lists.forward[row, entry]),
            float(table.lists.backward[row, entry]),
        )
        for row in range(len(table))
        for entry in range(table.lists.n[row])
    }


def list_sums(table: ItemTable) -> dict[str, tuple[float, float]]:
    """Item -> sums of its list."""
    both = zip(table.lists.forward_sum, table.lists.backward_sum, strict=True)
    return dict(zip(table.ids, [(float(f), float(b)) for f, b in both], strict=False))


def groups(table: ItemTable) -> dict[int, tuple[float, float, dict[int, float]]]:
    """Hash -> count, outgoing sum, and what came next."""
    columns = table.groups.columns
    return {
        int(columns.hash[row]): (
            float(columns.counts[row]),
            float(columns.out[row]),
            {
                int(columns.hash[columns.to[row, place]]): float(columns.weight[row, place])
                for place in range(columns.n[row])
            },
        )
        for row in range(columns.state[N_GROUPS])
    }


def queries(table: ItemTable) -> dict[int, dict[str, float]]:
    """Hash of a word or query -> item -> count."""
    columns = table.queries.columns
    return {
        int(columns.hash[row]): {
            table.ids[columns.items[row, place]]: float(columns.counts[row, place])
            for place in range(columns.n[row])
        }
        for row in range(columns.state[N_QUERIES])
    }


def ring(table: ItemTable) -> list[str]:
    """Recent positives, oldest first."""
    columns, n = table.columns, int(table.columns.state[RING_N])
    places = (columns.state[RING_NEXT] - n + np.arange(n)) % len(columns.ring)
    return [table.ids[row] for row in columns.ring[places]]


def check_same(one: ItemTable, two: ItemTable) -> None:
    """Both have counted the same, in whatever order."""
    assert lists(one) == lists(two)
    assert list_sums(one) == list_sums(two)
    assert groups(one) == groups(two)
    assert queries(one) == queries(two)
    assert one.groups.columns.totals.tolist() == two.groups.columns.totals.tolist()
    assert by_id(one, "n_positive") == by_id(two, "n_positive")
    for name in ("counts", "fast", "slow", "starts"):
        assert by_id(one, name) == pytest.approx(by_id(two, name), abs=1e-4)
    assert one.n_learned == two.n_learned
    check_ring(one)
    check_ring(two)


def check_ring(table: ItemTable) -> None:
    """The counts of the ring and of its newest places are those of its rows."""
    recent = ring(table)
    for name, part in (("ring_count", recent), ("short_count", recent[-CONFIG.n_ring_short :])):
        assert by_id(table, name) == {item: part.count(item) for item in table.ids}


def described(*tables: ItemTable) -> None:
    """Every table knows the catalogue."""
    for table in tables:
        table.describe(ENTRIES)


def test_two_tables_that_exchange_have_counted_what_one_that_saw_both_has() -> None:
    one, two, both = shared_table(), shared_table(), ItemTable(CONFIG.shape, CONFIG)
    described(one, two, both)
    mine, theirs = Shoppers(1), Shoppers(2)
    for _ in range(6):
        mine.shop(20, one, both)
        theirs.shop(30, two, both)
        told, heard = take_round(one), take_round(two)
        add_round(two, told)
        add_round(one, heard)
    check_same(one, both)
    check_same(two, both)
    assert len(lists(both)) > 50
    assert len(queries(both)) == 7  # four words, three whole queries


def test_others_positives_are_not_told_on() -> None:
    one, two = shared_table(), shared_table()
    described(one, two)
    Shoppers(1).shop(20, one)
    add_round(two, take_round(one))
    *rows, positives = take_round(two)
    assert rows == [None, None, None]
    assert (len(positives), positives.n_learned) == (0, 0)
    assert len(two.take_delta()) == 0


def test_readers_and_snapshots_hear_of_what_others_changed() -> None:
    one, two = shared_table(), shared_table()
    described(one, two)
    Shoppers(1).shop(20, one)
    two.take_delta()
    two.snapshot()
    add_round(two, take_round(one))
    delta = two.take_delta()
    assert {two.ids[row] for row in delta.model.listed.rows} == {item for item, _ in lists(one)}
    assert two.snapshot().chunks


def test_a_sample_counts_for_all() -> None:
    one, two = shared_table(), shared_table()
    for _ in range(40):
        learn(one, "a")
        learn(one, "b", after=["a"])
    message = take_round(one, most_positives=20)
    assert (message[3].n_learned, len(message[3])) == (80, 20)
    add_round(two, message)
    assert two.n_learned == 80
    assert by_id(two, "n_positive") == {"a": 40, "b": 40}  # sums are told whole
    pairs = lists(two)[("a", "b")][0]
    assert pairs == 4.0 * round(pairs / 4)
    assert 20 <= pairs <= 60
    assert one.take_positives(20).n_learned == 0


def test_a_thin_sample_counts_for_no_more_than_its_bound() -> None:
    one = shared_table()
    for _ in range(JOURNAL + 100):
        learn(one, "a")
    positives = one.take_positives(4)
    assert positives.n_learned == JOURNAL + 100
    assert positives.weights.tolist() == [MOST_TIMES] * 4


def test_items_that_are_not_known_here_are_left_out() -> None:
    one, two = shared_table(), shared_table()
    learn(one, "a")
    learn(one, "b", after=["a"])
    positives = one.take_positives(10)
    learn(two, "b")
    two.add_positives(positives)  # without the rows that name `a`
    assert two.n_learned == 3
    assert lists(two) == {}
    assert ring(two) == ["b", "b"]


def test_tokens_of_texts_add_up() -> None:
    one, two = shared_table(), shared_table()
    described(one, two)
    for table, by in ((one, 0.5), (two, 0.25)):
        table.tokens.columns.vectors[0] += np.float32(by)
        table.tokens.columns.sums[0] += np.float32(by)
        table.tokens.columns.changed[0] = 3
    told, heard = take_round(one), take_round(two)
    assert told[1] is not None
    assert len(told[1]) == 1
    add_round(two, told)
    add_round(one, heard)
    np.testing.assert_allclose(vectors(one), vectors(two), atol=1e-3)
    late = ItemTable(CONFIG.shape, CONFIG)  # nothing is described there yet
    add_round(late, told)
    add_round(late, heard)
    late.describe(ENTRIES)
    assert vectors(late)[key_of(one, 0)] == pytest.approx(vectors(one)[key_of(one, 0)], abs=1e-3)


def key_of(table: ItemTable, row: int) -> int:
    """Place of a token in the order of hashes."""
    return int(np.argsort(np.argsort(table.tokens.hashes[: len(table.tokens)]))[row])


def vectors(table: ItemTable) -> np.ndarray:
    """Tokens' vectors, in the order of their hashes."""
    order = np.argsort(table.tokens.hashes[: len(table.tokens)])
    return table.tokens.columns.vectors[: len(table.tokens)][order]


def words(table: ItemTable) -> dict[int, list[float]]:
    """Vectors of words and queries, by hash."""
    columns = table.queries.columns
    return {
        int(columns.hash[row]): columns.vectors[row].tolist() for row in range(len(table.queries))
    }


def check_words(one: ItemTable, two: ItemTable) -> None:
    """Both have the same words, but for rounding."""
    mine, others = words(one), words(two)
    assert mine.keys() == others.keys()
    for key, vector in mine.items():
        assert vector == pytest.approx(others[key], abs=2e-3)


def test_words_of_queries_add_up_also_after_rows_were_given_up() -> None:
    one, two = shared_table(), shared_table()
    one.queries = QueryTable(4, capacity=8, most=8)
    one.queries.share()
    for word in ("a", "b"):
        learn(one, "i", words=[word])
    add_round(two, take_round(one))
    learn(two, "i", words=["b"])
    add_round(one, take_round(two))
    check_words(one, two)
    for word in ("b", "c", "d", "b", "e"):
        learn(one, "i", words=[word])
    assert one.queries.columns.state[N_SWEEPS] == 1
    before = words(two)[item_hash("b")]
    add_round(two, take_round(one))
    assert words(two)[item_hash("b")] != before
    assert words(two)[item_hash("b")] == pytest.approx(words(one)[item_hash("b")], abs=2e-3)


def test_words_keep_what_is_pending_over_another_base() -> None:
    one, base = shared_table(), ItemTable(CONFIG.shape, CONFIG)
    for word in ("public", "both"):
        learn(one, "i", words=[word])
    take_round(one)
    learn(base, "i", 0.5, words=["both"])
    learn(base, "i", 0.5, words=["theirs"])
    two = ItemTable(CONFIG.shape, CONFIG)
    learn(two, "i", 0.5, words=["both"])
    learn(two, "i", 0.5, words=["theirs"])
    two.share()
    learn(one, "i", 0.3, words=["both"])
    learn(one, "i", 0.3, words=["mine"])
    one.rebase(base)
    add_round(two, take_round(one))
    check_words(one, two)
    assert item_hash("public") not in words(one)


def test_another_base_takes_the_place_of_lists_and_what_is_pending_is_counted_again() -> None:
    one, two, both = shared_table(), shared_table(), ItemTable(CONFIG.shape, CONFIG)
    base = ItemTable(CONFIG.shape, CONFIG)
    described(one, two, both, base)
    Shoppers(1).shop(30, base, both)
    Shoppers(2).shop(10, one)  # what is public here and in no base is left behind
    take_round(one)
    Shoppers(3).shop(15, one, both)  # pending
    one.rebase(base)
    check_same(one, both)
    base = ItemTable(CONFIG.shape, CONFIG)  # anew: `rebase` gives its table up
    described(base)
    Shoppers(1).shop(30, base)
    two.rebase(base)
    add_round(two, take_round(one))
    check_same(two, both)


def test_a_view_loses_the_lists_that_another_base_lacks() -> None:
    one, view = shared_table(), ItemView(CONFIG.shape, CONFIG, capacity=1)
    Shoppers(2).shop(10, one)
    view.apply(one.take_delta())
    one.take_positives(JOURNAL)
    assert view.model.lists.n[: len(view)].any()
    one.rebase(ItemTable(CONFIG.shape, CONFIG))
    view.apply(one.take_delta())
    for name in ("n", "forward_sum", "backward_sum"):
        assert not getattr(view.model.lists, name)[: len(view)].any()


def test_a_message_read_again_after_a_new_base_is_counted_once() -> None:
    one, two, both = shared_table(), shared_table(), ItemTable(CONFIG.shape, CONFIG)
    described(one, two, both)
    shoppers = Shoppers(1)
    base = ItemTable(CONFIG.shape, CONFIG)
    described(base)
    shoppers.shop(20, one, base, both)
    add_round(two, take_round(one))  # inside the base
    shoppers.shop(20, one, both)
    message = take_round(one)
    add_round(two, message)
    two.rebase(base)
    add_round(two, message)
    check_same(two, both)


def test_a_lost_message_lacks_what_it_held_and_no_more() -> None:
    one, two, rest = shared_table(), shared_table(), ItemTable(CONFIG.shape, CONFIG)
    described(one, two, rest)
    Shoppers(1).shop(20, one, rest)
    add_round(two, take_round(one))
    Shoppers(2).shop(20, one)
    take_round(one)  # lost
    Shoppers(3).shop(20, one, rest)
    add_round(two, take_round(one))
    assert lists(two) == lists(rest)
    assert groups(two) == groups(rest)


def test_a_snapshot_of_what_all_know_is_what_others_have() -> None:
    one, two = shared_table(), shared_table()
    described(one, two)
    Shoppers(1).shop(30, one)
    add_round(two, take_round(one))
    for table in (one.tokens, one.queries):  # pending, without a positive
        table.columns.vectors[0] += np.float32(0.5)
        table.columns.sums[0] += np.float32(0.5)
        table.columns.changed[0] = 3
    late = restored(one, public=True)
    check_same(late, two)
    check_words(late, two)
    np.testing.assert_allclose(vectors(late), vectors(two), atol=1e-6)
    late.share()
    message = take_round(one)
    add_round(late, message)
    add_round(two, message)
    check_words(late, one)
    Shoppers(2).shop(30, late, two)
    check_same(late, two)
    check_words(late, two)


def test_the_blend_of_who_does_not_fold_is_the_average_by_steps() -> None:
    start, one, two = new_blend().theta, new_blend(), new_blend()
    one.theta[EVERYWHERE] = 1
    one.n[EVERYWHERE] = 300
    two.theta[EVERYWHERE] = 3
    two.n[EVERYWHERE] = 100
    theta = average_theta([(one.theta, one.n), (two.theta, two.n)])
    assert theta[EVERYWHERE] == pytest.approx(1.5)
    assert theta[QUERY].tolist() == start[QUERY].tolist()
    assert theta.dtype == np.float32


def test_nothing_is_noted_while_nobody_listens() -> None:
    alone = ItemTable(CONFIG.shape, CONFIG)
    learn(alone, "a")
    assert alone.n_positives_pending == 0
    alone.share()
    learn(alone, "b", after=["a"])
    positives = alone.take_positives(5)
    assert positives.hashes.tolist() == [item_hash("b")]
    assert positives.history[0].tolist() == [item_hash("a"), 0, 0, 0, 0]
    assert isinstance(alone.sharing, Sharing)
    alone.stop_sharing()
    learn(alone, "c")
    assert alone.n_positives_pending == 0
