"""Positives with what was counted of them: for whoever has to count the same, elsewhere or again.

Sums travel as differences (`sharing`). Neighbour lists, moves between groups, what was had after a
query, the ring and the numbers of first and last positives are no sums: lists are full and drop,
counts are halved, places move on. So others are told the positives, each with the items before it,
and count them by the function that the fold counts its own with.

Owns that function, the journal that the fold writes while somebody listens, and the form in which
positives leave the table: by hash, for rows are local.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from profiles.groups import count_groups
from profiles.item_columns import N_LEARNED
from profiles.jit import Integer, Real, compiled, compiled_inline
from profiles.lists import DEPTH, count_pairs
from profiles.model import Model
from profiles.popularity import note_item
from profiles.queries import count_query

JOURNAL = 8_192
"""Positives that wait to be told: 4 seconds of a shop with 2,000 a second. Of more the newest."""

MOST_TIMES = 8.0
"""What one told positive may count for: after minutes without a broker the sample is thin, and a
pair of it would outweigh the honest ones of its list."""


class Learned(NamedTuple):
    """The journal (M places, W words): the n-th positive is at n % M."""

    item: NDArray[np.int32]  # (M,) rows of the item table
    history: NDArray[np.int32]  # (M, DEPTH) the items before it, newest first, -1: none
    weight: NDArray[np.float32]  # (M,)
    n_words: NDArray[np.uint8]  # (M,) of the query that was pending
    words: NDArray[np.uint64]  # (M, W)
    state: NDArray[np.int64]  # (1,) N_NOTED


N_NOTED = 0
"""Place in `Learned.state`: positives since they were last taken."""


def journal_for(n_places: int, n_words: int) -> Learned:
    """An empty journal; without places nothing is noted."""
    return Learned(
        item=np.zeros(n_places, np.int32),
        history=np.zeros((n_places, DEPTH), np.int32),
        weight=np.zeros(n_places, np.float32),
        n_words=np.zeros(n_places, np.uint8),
        words=np.zeros((n_places, n_words), np.uint64),
        state=np.zeros(1, np.int64),
    )


@compiled_inline
def note_positive(
    journal: Learned, item: Integer, history: NDArray[np.int64], n: Integer, weight: Real,
    words: NDArray[np.uint64], n_words: Integer,
) -> None:  # fmt: skip
    """Write a positive down, as `count_positive` is given it."""
    if len(journal.item) == 0:
        return
    place = journal.state[N_NOTED] % len(journal.item)
    journal.item[place] = item
    for a in range(journal.history.shape[1]):
        journal.history[place, a] = history[a] if a < n else np.int64(-1)
    journal.weight[place] = weight
    journal.n_words[place] = n_words
    for number in range(n_words):
        journal.words[place, number] = words[number]
    journal.state[N_NOTED] += 1


@compiled
def count_positive(
    model: Model, item: Integer, history: NDArray[np.int64], n: Integer, weight: Real,
    words: NDArray[np.uint64], n_words: Integer, n_short: Integer,
) -> None:  # fmt: skip
    """Count one positive in all that is no sum. history: rows of the n items before it, newest
    first, -1: not known here; words: of the query pending then. n_short: see `note_item`.

    Words that have no row yet get one: `QueryTable.reserve` comes first.
    """
    items = model.items
    count_pairs(model.lists, history, n, item, weight, items.changed)
    if n_words > 0:
        number = items.state[N_LEARNED] + 1
        count_query(model.queries, words, n_words, item, weight, number)
    count_groups(model.groups, items.facets, history, n, item, weight)
    note_item(items, item, n_short)


@compiled
def _count_told(
    model: Model, item: NDArray[np.int64], history: NDArray[np.int64],
    weight: NDArray[np.float32], n_words: NDArray[np.uint8], words: NDArray[np.uint64],
    n_learned: Integer, n_short: Integer,
) -> None:  # fmt: skip
    """Count N of `n_learned` positives, numbers spread evenly. item: rows, -1: not known."""
    before = model.items.state[N_LEARNED]
    first_word: Integer = np.int64(0)
    for told in range(len(item)):
        end = first_word + np.int64(n_words[told])
        if item[told] >= 0:
            model.items.state[N_LEARNED] = before + (told + 1) * n_learned // len(item) - 1
            count_positive(
                model, item[told], history[told], history.shape[1], weight[told],
                words[first_word:end], end - first_word, n_short,
            )  # fmt: skip
        first_word = end
    model.items.state[N_LEARNED] = before + n_learned


@dataclass(frozen=True, slots=True)
class Positives:
    """N of `n_learned` positives, oldest first, copied.

    hashes: uint64 (N,) of the items. history: uint64 (N, DEPTH) of the items before each, newest
    first, 0: none. weights: float32 (N,), what each counts for. n_words: uint8 (N,) of the query
    pending then; words: uint64, of one after the other.
    """

    n_learned: int
    hashes: NDArray[np.uint64]
    history: NDArray[np.uint64]
    weights: NDArray[np.float32]
    n_words: NDArray[np.uint8]
    words: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.hashes)


def positives_in(journal: Learned, hashes: NDArray[np.uint64], most: int) -> Positives:
    """What the journal holds; of more than `most` an even sample, whose weights stand for all.

    hashes: of the item table's rows.
    """
    n_learned, size = int(journal.state[N_NOTED]), len(journal.item)
    n_kept = min(n_learned, size)
    chosen = np.linspace(0, max(n_kept - 1, 0), min(n_kept, most)).astype(np.int64)
    places = (n_learned - n_kept + chosen) % max(size, 1)
    times = min(MOST_TIMES, n_learned / max(len(places), 1))
    before = journal.history[places]
    n_words = journal.n_words[places]
    used = np.arange(journal.words.shape[1]) < n_words[:, None]
    return Positives(
        n_learned=n_learned,
        hashes=hashes[journal.item[places]],
        history=np.where(before < 0, np.uint64(0), hashes[before]),
        weights=journal.weight[places] * np.float32(times),
        n_words=n_words,
        words=journal.words[places][used],
    )


def count_told(
    model: Model,
    positives: Positives,
    item: NDArray[np.int32],
    history: NDArray[np.int32],
    n_short: int,
) -> None:
    """Count others' positives. item, history: rows of theirs, -1: not known here."""
    _count_told(
        model,
        item.astype(np.int64),
        history.astype(np.int64),
        np.ascontiguousarray(positives.weights, np.float32).copy(),
        np.ascontiguousarray(positives.n_words, np.uint8).copy(),
        np.ascontiguousarray(positives.words, np.uint64).copy(),
        positives.n_learned,
        n_short,
    )
