"""The protocol: who is ranked against what, how ties and broken scores count, and no look ahead."""

import numpy as np
import pytest

from agents.errors import UsageError
from agents.evaluate.figures import figures
from agents.evaluate.fold_ranker import FoldRanker
from agents.evaluate.judge import TOP, judge
from agents.evaluate.protocol import asked, prequential
from agents.evaluate.rivals.base import Rival
from agents.evaluate.rivals.catalogue import ENTRIES, left_out_because
from agents.evaluate.run import chosen, evaluate
from agents.evaluate.stream import Stream, stream_of
from profiles.shape import FoldConfig, ModelShape
from streams.events import Click, Event, Item, Return, Search

SMALL = FoldConfig(shape=ModelShape(n_factors=8))


def clicks(n: int, seed: int = 0, n_users: int = 6, n_items: int = 12) -> list[Event]:
    """Users who walk on from item to item, and at times jump."""
    random = np.random.default_rng(seed)
    at = random.integers(n_items, size=n_users)
    events: list[Event] = []
    for number in range(n):
        user = int(random.integers(n_users))
        at[user] = (at[user] + 1) % n_items if random.random() < 0.8 else random.integers(n_items)
        query = f"item {at[user]}" if random.random() < 0.5 else None
        events.append(
            Click(user_id=f"u{user}", item_id=f"i{at[user]}", ts=1_000 * number, query=query)
        )
    return events


def catalogue(n: int) -> list[Item]:
    return [Item(item_id=f"i{i}", category=[f"c{i % 3}"], brand=f"b{i % 4}") for i in range(n)]


def ranks_of(
    scores: list[float], target: int, current: int = -1, had: tuple[int, ...] = ()
) -> list:
    ranks, top = np.zeros(3), np.zeros(TOP, np.int32)
    rows = np.array(had, np.int32)
    judge(np.array(scores, np.float32), len(scores), target, current, rows, ranks, top)
    return ranks.tolist()


def test_items_level_with_the_right_one_count_half() -> None:
    assert ranks_of([3, 2, 2, 2, 1], target=2)[0] == 3.0
    assert ranks_of([0, 0, 0, 0, 0], target=0)[0] == 3.0


def test_the_current_item_is_left_out_and_for_new_items_all_that_the_user_had() -> None:
    scores = [9.0, 8.0, 7.0, 6.0]
    assert ranks_of(scores, target=3, current=0)[0] == 3.0
    assert ranks_of(scores, target=3, current=0, had=(0, 1))[1] == 2.0


def test_a_diverged_model_misses() -> None:
    assert ranks_of([1.0, float("nan")], target=1) == [np.inf] * 3
    assert ranks_of([float("nan"), 1.0], target=1)[0] == 2.0


def test_an_item_never_seen_is_a_miss_but_not_where_the_catalogue_is_ranked() -> None:
    ranks, top = np.zeros(3), np.zeros(TOP, np.int32)
    scores = np.array([1.0, 0.0, 5.0], np.float32)
    judge(scores, 2, 2, -1, np.zeros(0, np.int32), ranks, top)
    assert ranks.tolist() == [np.inf, np.inf, 1.0]
    assert top[:3].tolist() == [0, 1, -1]


def test_ranks_agree_with_a_sort() -> None:
    random = np.random.default_rng(1)
    for _ in range(50):
        scores = random.normal(size=40).astype(np.float32)
        order = np.argsort(-scores).tolist()
        target = int(random.integers(40))
        assert ranks_of(scores.tolist(), target)[0] == order.index(target) + 1


def test_a_stream_knows_what_came_before_each_event() -> None:
    events: list[Event] = [
        Click(user_id="a", item_id="x", ts=1),
        Search(user_id="b", ts=2, query="Red Lamp"),
        Click(user_id="b", item_id="y", ts=3),
        Return(user_id="a", item_id="x", ts=4),
        Click(user_id="a", item_id="y", ts=5),
        Click(user_id="a", item_id="x", ts=6),
    ]
    stream = stream_of("t", events)
    assert stream.n_seen.tolist() == [0, 1, 1, 2, 2, 2]
    assert stream.current.tolist() == [-1, -1, -1, 0, 0, 1]
    assert stream.n_earlier.tolist() == [0, 0, 0, 1, 1, 2]
    assert stream.new.tolist() == [True, False, True, False, True, False]
    assert stream.queries[2] == ("red", "lamp")
    assert stream.queries[4] == ()
    assert asked(stream, 0).tolist() == [0, 2, 4, 5]


def test_a_repeat_of_the_current_item_is_not_ranked() -> None:
    events: list[Event] = [Click(user_id="a", item_id="x", ts=t) for t in range(4)]
    assert asked(stream_of("t", events), 0).tolist() == [0]


def test_a_stream_without_positives_is_refused() -> None:
    with pytest.raises(UsageError, match="no clicks"):
        stream_of("t", [Search(user_id="b", ts=2, query="lamp")])


OWN = [entry for entry in ENTRIES if not entry.packages]


def with_future(stream: Stream, b: int) -> Stream:
    """The same up to b; then the items are others."""
    item = stream.item.copy()
    item[b:] = np.roll(item[b:], 1)
    return Stream(
        stream.name, stream.events[:b] + stream.events[b:][::-1], stream.user_ids,
        stream.item_ids, stream.items, stream.user, item, stream.time_ms, stream.weight,
        stream.positive, stream.session, stream.queries,
    )  # fmt: skip


@pytest.mark.parametrize("entry", OWN, ids=lambda entry: entry.key)
def test_no_rival_looks_at_what_is_still_to_come(entry: object) -> None:
    stream = stream_of("t", clicks(120), catalogue(12))
    b = 80
    found = []
    for of in (stream, with_future(stream, b)):
        rival: Rival = entry.rival()  # type: ignore[attr-defined]
        rival.begin(of)
        for number in range(b):
            rival.learn(number)
        out = np.zeros(int(of.n_seen[b]), np.float32)
        rival.scores(b, out)
        found.append(out)
    assert np.array_equal(found[0], found[1])


@pytest.mark.parametrize("entry", OWN, ids=lambda entry: entry.key)
def test_every_rival_ranks_better_than_chance_where_it_can(entry: object) -> None:
    stream = stream_of("t", clicks(400), catalogue(12))
    rival: Rival = entry.rival()  # type: ignore[attr-defined]
    trials = prequential(rival, stream, asked(stream))
    assert np.isfinite(trials.ranks[:, 0]).all()
    if entry.key in ("markov", "iknn", "backoff", "query-counts", "query-words"):  # type: ignore[attr-defined]
        assert figures(trials.ranks[:, 0]).mrr20 > 0.35  # chance is .27


def test_our_model_is_the_products_own_and_the_same_twice() -> None:
    stream = stream_of("t", clicks(300))
    one, two = (prequential(FoldRanker(SMALL), stream, asked(stream)) for _ in range(2))
    assert np.array_equal(one.ranks, two.ranks)
    other = prequential(FoldRanker(SMALL, seed=1), stream, asked(stream))
    assert not np.array_equal(one.ranks, other.ranks)


def test_an_evaluation_names_the_best_simple_rival_and_the_ratio() -> None:
    stream = stream_of("t", clicks(300), catalogue(12))
    run = evaluate(stream, SMALL, models=["fold", "popularity", "markov"]).evaluation
    assert [model.name for model in run.models] == ["FOLD", "popularity", "last-item Markov"]
    assert run.best_simple["all"] in ("popularity", "last-item Markov")
    assert run.ratios["all"]["mrr@20"] > 0
    assert set(run.models[0].readings) == {"all", "new", "catalogue", "query"}
    assert run.models[0].readings["all"].n == run.ranked


def test_slices_of_the_catalogue_have_items_that_nobody_had_yet() -> None:
    first_half = [Click(user_id="u", item_id=f"i{n % 2}", ts=n) for n in range(20)]
    second = [Click(user_id="u", item_id=f"i{2 + n}", ts=20 + n) for n in range(10)]
    stream = stream_of("t", [*first_half, *second, *first_half[:10]], catalogue(12))
    (model,) = evaluate(stream, SMALL, models=["popularity"]).evaluation.models
    unseen = "items seen 0 times"
    assert model.catalogue_slices.keys() == model.slices.keys()
    assert (model.slices[unseen].n, model.slices[unseen].hr20) == (10, 0.0)
    # Of twelve items each is in the top 20.
    assert (model.catalogue_slices[unseen].n, model.catalogue_slices[unseen].hr20) == (10, 1.0)
    bare = stream_of("t", first_half)
    (model,) = evaluate(bare, SMALL, models=["popularity"]).evaluation.models
    assert model.catalogue_slices == {}


def test_what_a_stream_has_nothing_for_is_left_out_by_name() -> None:
    stream = stream_of("t", [Click(user_id="u", item_id=f"i{n % 5}", ts=n) for n in range(40)])
    run = evaluate(stream, SMALL, models=["popularity", "backoff", "query-counts"]).evaluation
    assert set(run.left_out) == {"item-kNN + category back-off", "query-to-item counts"}


def test_a_model_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(UsageError, match="fold, popularity"):
        chosen(["knn"])


def test_a_rival_whose_package_is_missing_says_how_to_install_it() -> None:
    entry = next(e for e in ENTRIES if e.key == "als")
    missing = type(entry)(entry.key, entry.rival, False, "", ("no_such_package",))
    assert "pip install -e '.[evaluate]'" in left_out_because(missing, stream_of("t", clicks(5)))


def test_tenths_are_of_the_whole_stream_and_every_third_event_is_a_third_of_them() -> None:
    stream = stream_of("clicks", clicks(600))
    run = evaluate(stream, SMALL, models=["popularity"], whole=True, every=3)
    tenths = run.evaluation.tenths["popularity"]
    asked_for = asked(stream, 0)[::3]
    assert [f.n for f in tenths] == np.bincount(asked_for // 60, minlength=10).tolist()
    assert run.evaluation.ranked == int((asked_for >= 300).sum())
    alone = evaluate(stream, SMALL, models=["popularity"]).evaluation
    assert alone.tenths == {}


def test_another_pace_changes_the_times_and_nothing_else() -> None:
    stream = stream_of("clicks", clicks(200))
    paced = stream.paced(4.0)
    assert (np.diff(paced.time_ms) == 250).all()
    assert [event.ts for event in paced.events] == paced.time_ms.tolist()
    assert paced.time_ms[0] == stream.time_ms[0]
    for name in ("user", "item", "session", "current", "n_had", "n_seen"):
        assert (getattr(paced, name) == getattr(stream, name)).all()
    assert [(e.user_id, e.item_id) for e in paced.events] == [  # type: ignore[attr-defined]
        (e.user_id, e.item_id)  # type: ignore[attr-defined]
        for e in stream.events
    ]
