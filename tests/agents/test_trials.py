"""Live trials: they change nothing, hang on no cut, and rank as `evaluate` does."""

import numpy as np
import pytest

from agents.evaluate.fold_ranker import FoldRanker
from agents.evaluate.protocol import asked, prequential
from agents.evaluate.stream import stream_of
from agents.translate import Translator
from agents.trials import LiveTrials
from profiles.facets import describe
from profiles.fold import fold_batch
from profiles.interactions import Kinds
from profiles.items import ItemTable
from profiles.shape import FoldConfig, ModelShape
from profiles.table import ProfileTable
from streams.errors import StreamsError
from streams.events import Click, Event, Search
from streams.trials import MISS, Trial, TrialBatch, decode_trials, encode_trials

CONFIG = FoldConfig(shape=ModelShape(n_factors=8))


def events(n: int) -> list[Event]:
    """Clicks of a few users on a growing catalogue, with searches and repeats."""
    random = np.random.default_rng(3)
    found: list[Event] = []
    for number in range(n):
        user = f"u{random.integers(9)}"
        if random.random() < 0.1:
            found.append(Search(user_id=user, ts=number, query="lamp"))
        else:
            item = f"i{random.integers(5 + number // 4)}"
            found.append(Click(user_id=user, item_id=item, ts=number))
    return found


def folded(
    stream: list[Event], cut: int, share: float | None
) -> tuple[ItemTable, ProfileTable, list[Trial], list[list[int]]]:
    """The stream folded in batches of `cut`; share: of trials, None: without."""
    items, profiles = ItemTable(CONFIG.shape, CONFIG), ProfileTable(CONFIG.shape)
    translator = Translator(Kinds(), 8)
    live = LiveTrials(share) if share is not None else None
    watermark_ms, trials, changed = 0, [], []
    for first in range(0, len(stream), cut):
        part = stream[first : first + cut]
        missing = profiles.missing([event.user_id for event in part])
        profiles.load(missing, [None] * len(missing))
        offsets = list(range(first, first + len(part)))
        batch = translator.translate(0, part, offsets, [e.ts for e in part], profiles, items)
        if live is None:
            report = fold_batch(profiles, items, batch, CONFIG, watermark_ms)
        else:
            report, found = live.fold(profiles, items, batch, CONFIG, watermark_ms)
            trials += found
        watermark_ms = report.watermark_ms
        changed.append(report.user_rows.tolist())
        assert [part[n].user_id for n in report.last_index] == profiles.user_ids(report.user_rows)
        assert report.last_offset.tolist() == [offsets[n] for n in report.last_index]
    return items, profiles, trials, changed


@pytest.mark.parametrize("share", [0.0001, 0.2, 1.0])
def test_trials_change_nothing_of_what_is_folded(share: float) -> None:
    stream = events(300)
    items, profiles, _, changed = folded(stream, 50, None)
    items2, profiles2, _, changed2 = folded(stream, 50, share)
    assert np.array_equal(items.columns.vectors, items2.columns.vectors)
    for rows in changed:
        assert profiles.pack(np.array(rows)) == profiles2.pack(np.array(rows))
    assert changed == changed2


def test_ranks_hang_on_no_cut_and_are_those_of_evaluate() -> None:
    stream = events(400)
    runs = [folded(stream, cut, 1.0)[2] for cut in (1, 37, 400)]
    assert runs[0] == runs[1] == runs[2]
    columns = stream_of("t", stream)
    expected = prequential(FoldRanker(CONFIG), columns, asked(columns, 0))
    assert [trial.offset for trial in runs[0]] == expected.event.tolist()
    ranks = [np.inf if trial.rank == MISS else trial.rank for trial in runs[0]]
    assert ranks == expected.ranks[:, 0].tolist()


def test_the_same_events_are_sampled_whatever_the_cut() -> None:
    stream = events(400)
    whole = folded(stream, 400, 1.0)[2]
    some = folded(stream, 400, 0.2)[2]
    assert some == folded(stream, 13, 0.2)[2]
    assert 0.1 < len(some) / len(whole) < 0.3
    assert {trial.offset for trial in some} < {trial.offset for trial in whole}


def test_an_item_never_seen_is_a_miss_for_all_three() -> None:
    first = folded(events(50), 50, 1.0)[2][0]
    assert (first.rank, first.popularity, first.iknn, first.n_seen) == (MISS, MISS, MISS, 0)


def test_an_item_that_lost_its_entry_is_not_ranked() -> None:
    items, profiles = ItemTable(CONFIG.shape, CONFIG), ProfileTable(CONFIG.shape)
    profiles.load(["u"], [None])
    items.describe({"gone": describe(), "kept": describe()})
    translator, live = Translator(Kinds(), 8), LiveTrials(1.0)
    found: list[Trial] = []
    for offset, item in enumerate(["kept", "gone", "other", "gone", "kept"]):
        if offset == 3:
            items.describe({"gone": None})
        event = Click(user_id="u", item_id=item, ts=offset)
        batch = translator.translate(0, [event], [offset], [offset], profiles, items)
        found += live.fold(profiles, items, batch, CONFIG, 0)[1]
    assert [trial.n_seen for trial in found] == [0, 1, 2, 2, 2]
    assert found[3].rank == MISS
    assert "gone" not in found[3].top + found[4].top
    assert found[4].rank != MISS


def test_a_message_is_read_back_as_sent_and_another_is_refused() -> None:
    batch = TrialBatch(partition=3, trials=folded(events(50), 50, 1.0)[2])
    assert decode_trials(encode_trials(batch)) == batch
    with pytest.raises(StreamsError, match="not a batch of trials"):
        decode_trials(b"[]")
