"""Lists written by the compiled pass are the JSON that msgspec reads back, number by number."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agents.list_json import MOST_SCORE, Past, Quoted, Ranked, encode_text, texts_of, write_lists
from streams.events import RankedItem

KINDS = ["click", "a very long name of a kind"]


def written(
    scores: list[float], ids: list[str], times: list[int], share: float, least_share: float = 0.0
) -> Ranked:
    """One list of all scores, each explained by every past event, the last one first."""
    n, H = len(scores), len(times)
    quoted = [encode_text(one) for one in ids]
    why = np.broadcast_to(np.arange(H - 1, -1, -1, dtype=np.int32), (1, n, H)).copy()
    (ranked,) = write_lists(
        [7],
        np.arange(n, dtype=np.int32)[None],
        texts_of([quoted[number % len(ids)] for number in range(n)]),
        np.array([scores], np.float32),
        Past(
            texts_of([quoted[number % len(ids)] for number in range(H)]),
            np.array([times], np.int64),
            (np.arange(H, dtype=np.uint8) % 2)[None],
            texts_of([encode_text(one) for one in KINDS]),
        ),
        why,
        np.full((1, n, H), share, np.float32),
        least_share,
    )
    return ranked


@given(
    scores=st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=5),
    ids=st.lists(st.text(min_size=1, max_size=9), min_size=1, max_size=3),
    times=st.lists(st.integers(-(2**63) + 1, 2**63 - 1), max_size=3),
    share=st.floats(0, 1, width=32),
)
@example(scores=[-0.0, 1e-5, -1e-6, 0.1, 12.5, -3.00001], ids=['"\\\n'], times=[0, -1], share=1.0)
@example(scores=[1e38, -1e38, math.inf], ids=["a"], times=[], share=0.0)
@settings(deadline=None)
def test_what_is_written_is_read_back(
    scores: list[float], ids: list[str], times: list[int], share: float
) -> None:
    ranked = written(scores, ids, times, share)
    assert ranked.profile_offset == 7
    assert len(ranked) == len(scores)
    for number, (item, score) in enumerate(zip(ranked.items, scores, strict=True)):
        assert (item.rank, item.item_id) == (number + 1, ids[number % len(ids)])
        bounded = min(max(float(np.float32(score)), -MOST_SCORE), MOST_SCORE)
        assert abs(item.score - bounded) <= 0.5000001e-5 + 1e-15 * abs(bounded)
        assert [reason.ts for reason in item.reasons] == times[::-1]
        for place, reason in zip(range(len(times) - 1, -1, -1), item.reasons, strict=True):
            assert reason.item_id == ids[place % len(ids)]
            assert reason.kind == KINDS[place % 2]
            assert reason.share == round(float(np.float32(share)), 3)


def test_a_number_has_no_noughts_at_its_end_but_the_first() -> None:
    text = written([12.0, 0.25, -0.10, 3.14159], ["a"], [], 0.0).text.decode()
    assert [part.split(",")[0] for part in text.split('"score":')[1:]] == [
        "12.0", "0.25", "-0.1", "3.14159",
    ]  # fmt: skip


@pytest.mark.parametrize("share", [0.049, -1.0, math.nan, math.inf])
def test_a_share_that_says_little_or_is_no_number_is_left_out(share: float) -> None:
    (item,) = written([1.0], ["a"], [5], share, least_share=0.05).items
    assert bool(item.reasons) == (share == math.inf)
    (item,) = written([1.0], ["a"], [5], 0.05, least_share=float(np.float32(0.05))).items
    assert [reason.share for reason in item.reasons] == [0.05]


def test_a_kind_without_a_name_is_left_out_and_nothing_is_read_beyond_the_end() -> None:
    share = np.ones((1, 1), np.float32)
    kinds = texts_of([encode_text(one) for one in KINDS])
    text = texts_of([b'"a"'])
    for code in (2, 200, 255):
        past = Past(text, np.zeros((1, 1), np.int64), np.full((1, 1), code, np.uint8), kinds)
        (ranked,) = write_lists(
            [1], np.zeros((1, 1), np.int32), text, share, past, np.zeros((1, 1, 1), np.int32),
            share[None], 0.0,
        )  # fmt: skip
        assert ranked.items == [RankedItem(item_id="a", rank=1, score=1.0)]


def test_the_least_time_is_written_as_the_next() -> None:
    (item,) = written([1.0], ["a"], [-(2**63)], 1.0).items
    assert item.reasons[0].ts == -(2**63) + 1


@given(
    sizes=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    n=st.one_of(st.none(), st.integers(0, 9)),
)
def test_lists_are_cut_and_joined_between_items(sizes: tuple[int, int], n: int | None) -> None:
    first, second = (
        [RankedItem(item_id=f'{name}"{k}', rank=k + 1, score=k / 8) for k in range(size)]
        for name, size in zip("ab", sizes, strict=True)
    )
    joined = Ranked.of(3, first).followed_by(Ranked.of(None, second)).first(n)
    assert joined.items == (first + second)[:n]
    assert (joined.profile_offset, len(joined)) == (3, len((first + second)[:n]))


def test_ids_are_those_of_the_version_asked_for() -> None:
    quoted, rows = Quoted(), np.array([[-1, 1]], np.int32)
    for version, ids in enumerate((["a", "b"], ["c", 'd"'], ["c", "e"])):
        found = quoted.of(ids, version, rows)
        assert found.text.tobytes() == encode_text(ids[1])
        assert found.at.tolist() == [0, 0, len(found.text)]
