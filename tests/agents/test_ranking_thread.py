"""What is asked beside the event loop is what would have been ranked on it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from agents.list_json import Ranked
from agents.ranking import Ranking, RankingRules
from agents.ranking_thread import AT_ONCE, RankingThread
from profiles.errors import RecordCorrupt
from profiles.interactions import Kinds
from profiles.view import ItemView
from tests.agents.test_ranking import a_record, a_view, ids


class Watched(Ranking):
    """Notes who was ranked together, and where."""

    def __init__(self, view: ItemView) -> None:
        super().__init__(view, None, Kinds(), RankingRules())
        self.together: list[list[str]] = []
        self.threads: set[int] = set()

    def rank(
        self,
        user_ids: Sequence[str],
        records: Sequence[bytes | None],
        n: int,
        asked_ms: int | Sequence[int] | None = None,
    ) -> list[Ranked]:
        self.together.append(list(user_ids))
        self.threads.add(threading.get_ident())
        return super().rank(user_ids, records, n, asked_ms)


async def test_requests_that_come_together_get_the_lists_they_would_get_alone() -> None:
    view = a_view()
    ranking, alone = Watched(view), Ranking(view, None, Kinds(), RankingRules())
    records = [
        a_record(view, (f"i{n % 8}", "click"), likes=f"i{(n + 1) % 8}") for n in range(AT_ONCE + 9)
    ]
    asked = [(f"u{n}", record, 1 + n % 7, 10 + n) for n, record in enumerate(records)]
    thread = RankingThread(ranking)
    answers = await asyncio.gather(*[thread.rank(*one) for one in asked])
    for (user, record, n, asked_ms), answer in zip(asked, answers, strict=True):
        assert answer == alone.rank([user], [record], n, asked_ms)[0]
        assert len(answer) == n
    assert max(map(len, ranking.together)) == AT_ONCE
    assert threading.get_ident() not in ranking.threads


async def test_the_same_user_may_ask_twice_and_rerank_in_between() -> None:
    view = a_view()
    record = a_record(view, ("i7", "click"), likes="i3")
    thread = RankingThread(Watched(view))
    first, ordered, second = await asyncio.gather(
        thread.rank("u", record, 3, 10),
        thread.rerank("u", record, ["x", "i5", "i3"], 2, 10, None),
        thread.rank("u", record, 5, 10),
    )
    assert ids(second)[:3] == ids(first)
    assert ids(ordered) == ["i3", "i5"]


async def test_a_record_that_is_none_keeps_nobody_else_from_a_list() -> None:
    view = a_view()
    record = a_record(view, ("i7", "click"), likes="i3")
    thread = RankingThread(Watched(view))
    before, broken, after = await asyncio.gather(
        thread.rank("a", record, 3, 10),
        thread.rank("b", b"\x01nonsense", 3, 10),
        thread.rank("c", record, 3, 10),
        return_exceptions=True,
    )
    assert isinstance(broken, RecordCorrupt)
    assert isinstance(before, Ranked)
    assert isinstance(after, Ranked)
    assert ids(before) == ids(after)
    assert len(await thread.rank("d", record, 4, 10)) == 4


async def test_who_no_longer_waits_keeps_nobody_waiting() -> None:
    view = a_view()
    thread = RankingThread(Watched(view))
    waiting = [asyncio.create_task(thread.rank(f"u{n}", None, 3, 10)) for n in range(4)]
    await asyncio.sleep(0)
    waiting[1].cancel()
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(ended[1], asyncio.CancelledError)
    assert all(len(ended[n]) == 3 for n in (0, 2, 3))  # type: ignore[union-attr]


def test_a_reader_lets_changes_through_that_have_waited_long() -> None:
    view, made = a_view(), []
    entered, left = threading.Event(), threading.Event()

    def read() -> None:
        with view.reading():
            entered.set()
            left.wait(10)

    def read_later() -> None:
        with view.reading():
            made.append("second reader")

    first, second = threading.Thread(target=read), threading.Thread(target=read_later)
    first.start()
    entered.wait(10)
    for number in range(30):
        view.change(lambda number=number: made.append(number))  # type: ignore[misc]
    assert made == []
    second.start()
    second.join(0.2)
    assert second.is_alive()  # it gives way
    left.set()
    first.join(10)
    second.join(10)
    assert made == [*range(30), "second reader"]


@pytest.mark.parametrize("error", [RuntimeError("ours")])
async def test_an_error_of_ours_reaches_who_asked(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranking = Watched(a_view())
    thread = RankingThread(ranking)

    def wrong(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(ranking, "rank", wrong)
        with pytest.raises(RuntimeError, match="ours"):
            await thread.rank("u", None, 3, 10)
    assert len(await thread.rank("u", None, 3, 10)) == 3
