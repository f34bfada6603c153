"""V-SKNN, incremental: items of the sessions that share the most recent items with this one.

Source: Ludewig & Jannach 2018, User Modeling and User-Adapted Interaction 28, V-SKNN; a session
enters item by item instead of at its end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.evaluate.compiled import compiled
from agents.evaluate.rivals.base import Recent, Rival

LENGTH = 50
"""Items kept of a session, the newest."""

SAMPLE = 200
"""Newest sessions looked at for each item."""


@compiled
def note_session(
    sessions: NDArray[np.int32], n_sessions: NDArray[np.int32], item: Any, session: Any
) -> None:
    """`session` has `item`: into the item's ring, once."""
    size = sessions.shape[1]
    n = n_sessions[item]
    for back in range(min(n, 20)):
        if sessions[item, (n - 1 - back) % size] == session:
            return
    sessions[item, n % size] = session
    n_sessions[item] = n + 1


@compiled
def score_sessions(
    sessions: NDArray[np.int32], n_sessions: NDArray[np.int32], items: NDArray[np.int32],
    n_items: NDArray[np.int32], own: Any, recent: NDArray[np.int32], n_recent: Any,
    counts: NDArray[np.float32], k: Any, idf: Any, similarity: NDArray[np.float32],
    newest: NDArray[np.int32], touched: NDArray[np.int32], out: NDArray[np.float32],
) -> None:  # fmt: skip
    """Add the scores of V-SKNN with weights 1/(1 + a) to out.

    similarity (S,), newest (S,): zeros, and zeros again afterwards. touched: int32, scratch.
    """
    size = sessions.shape[1]
    n_touched = 0
    for a in range(n_recent):
        item = recent[a]
        share = np.float32(1.0 / (1 + a))
        for place in range(min(n_sessions[item], size)):
            session = sessions[item, place]
            if session == own:
                continue
            if similarity[session] == 0:
                newest[session] = a
                touched[n_touched] = session
                n_touched += 1
            similarity[session] += share
    if n_touched == 0:
        return
    least = np.float32(0)
    if n_touched > k:
        values = np.empty(n_touched, np.float32)
        for number in range(n_touched):  # the newer session where two are alike
            session = touched[number]
            values[number] = similarity[session] + np.float32(1e-7) * session
        least = np.sort(values)[n_touched - k]
    total = np.float32(counts.sum())
    for number in range(n_touched):
        session = touched[number]
        if similarity[session] + np.float32(1e-7) * session >= least:
            share = similarity[session] / np.float32(1 + newest[session])
            for place in range(n_items[session]):
                j = items[session, place]
                if j < len(out):
                    gain = np.float32(1)
                    if idf > 0:
                        gain += np.float32(idf) * np.log(total / (counts[j] + 1))
                    out[j] += share * gain
    for number in range(n_touched):
        similarity[touched[number]] = 0


class VSknn(Rival):
    """Neighbour sessions; a session is what the stream calls one, or a user's whole history."""

    name = "V-SKNN"
    learn_grid = ({"session": "user"}, {"session": "id"})
    score_grid = tuple(
        {"k": k, "depth": depth, "idf": idf}
        for k in (50, 100, 300, 1_000)
        for depth in (5, 15)
        for idf in (0.0, 0.2)
    )

    def start(self) -> None:
        stream = self.stream
        self._by_id = self.params["session"] == "id" and bool((stream.session >= 0).any())
        n = int(stream.session.max()) + 1 if self._by_id else len(stream.user_ids)
        self._sessions = np.full((stream.n_items, SAMPLE), -1, np.int32)
        self._n_sessions = np.zeros(stream.n_items, np.int32)
        self._items = Recent(n, LENGTH)
        self._similarity = np.zeros(n, np.float32)
        self._newest = np.zeros(n, np.int32)
        self._touched = np.zeros(LENGTH * SAMPLE, np.int32)

    def scores(self, b: int, out: NDArray[np.float32]) -> None:
        self.popularity(out)
        p, own = self.params, self._session(b)
        if own >= 0:
            score_sessions(
                self._sessions, self._n_sessions, self._items.rows, self._items.n, own,
                self._items.rows[own], min(int(self._items.n[own]), p["depth"]), self.counts,
                p["k"], p["idf"], self._similarity, self._newest, self._touched, out,
            )  # fmt: skip

    def take(self, b: int, user: int, item: int) -> None:
        own = self._session(b)
        if own >= 0:
            self._items.push(own, item)
            note_session(self._sessions, self._n_sessions, item, own)

    def _session(self, b: int) -> int:
        return int(self.stream.session[b] if self._by_id else self.stream.user[b])
