"""Ranks requests in a thread, beside the event loop: what comes meanwhile is ranked together.

A list of a large catalogue takes milliseconds of compiled code without the GIL; on the event loop
it would hold up heartbeats and everybody else's answers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from agents.list_json import Ranked
from agents.ranking import Ranking

AT_ONCE = 32
"""Requests ranked in one call: the last of them waits for the others."""


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """A list that somebody waits for. candidates: None for the best of all items."""

    user_id: str
    record: bytes | None
    n: int | None
    asked_ms: int
    candidates: Sequence[str] | None = None
    query: str | None = None
    answer: asyncio.Future[Ranked] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class RankingThread:
    """One ranking, used by one thread at a time; for one event loop. Who asks bounds how many
    wait."""

    def __init__(self, ranking: Ranking) -> None:
        self._ranking = ranking
        self._waiting: deque[_Asked] = deque()
        self._working: asyncio.Task[None] | None = None

    async def rank(self, user_id: str, record: bytes | None, n: int, asked_ms: int) -> Ranked:
        """As `Ranking.rank` for one user."""
        return await self._ask(_Asked(user_id, record, n, asked_ms))

    async def rerank(
        self,
        user_id: str,
        record: bytes | None,
        candidates: Sequence[str],
        n: int | None,
        asked_ms: int,
        query: str | None,
    ) -> Ranked:
        """As `Ranking.rerank`."""
        return await self._ask(_Asked(user_id, record, n, asked_ms, candidates, query))

    async def _ask(self, asked: _Asked) -> Ranked:
        self._waiting.append(asked)
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        return await asked.answer

    async def _work(self) -> None:
        while self._waiting:
            turn = self._next()
            ended = await asyncio.to_thread(self._rank_all, turn)
            for asked, end in zip(turn, ended, strict=True):
                if asked.answer.done():  # whoever asked has gone
                    continue
                if isinstance(end, Exception):
                    asked.answer.set_exception(end)
                else:
                    asked.answer.set_result(end)

    def _next(self) -> list[_Asked]:
        """The oldest request, and those behind it that can be ranked with it."""
        turn = [self._waiting.popleft()]
        users = {turn[0].user_id}
        while (
            self._waiting
            and len(turn) < AT_ONCE
            and turn[0].candidates is None
            and self._waiting[0].candidates is None
            and self._waiting[0].user_id not in users  # one call ranks each user once
        ):
            turn.append(self._waiting.popleft())
            users.add(turn[-1].user_id)
        return turn

    def _rank_all(self, turn: Sequence[_Asked]) -> Sequence[Ranked | Exception]:
        """In the thread: a list for each, or why there is none."""
        if len(turn) > 1:
            with suppress(Exception):  # one's record must not keep the others from their lists
                return self._rank(turn)
        return [self._rank_one(asked) for asked in turn]

    def _rank_one(self, asked: _Asked) -> Ranked | Exception:
        try:
            if asked.candidates is None:
                return self._rank([asked])[0]
            return self._ranking.rerank(
                asked.user_id, asked.record, asked.candidates, asked.n, asked.asked_ms, asked.query
            )
        except Exception as error:  # noqa: BLE001  # raised where it is awaited
            return error

    def _rank(self, turn: Sequence[_Asked]) -> list[Ranked]:
        n = max(asked.n or 0 for asked in turn)
        lists = self._ranking.rank(
            [asked.user_id for asked in turn],
            [asked.record for asked in turn],
            n,
            [asked.asked_ms for asked in turn],
        )
        return [ranked.first(asked.n) for asked, ranked in zip(turn, lists, strict=True)]
