"""Vectors of tokens: the words, categories, brands and price bands of items.

An item's effective vector is its own row and the mean of its tokens', so that an item nobody has
had points somewhere from its entry in the catalogue alone: e = D + (2/n) sum X. A gradient on e
goes to D with factor 1 and to each of the n tokens with 2/n. (The words of queries are in
`queries`.)

Size: (4 K + 29) bytes a token, 285 at K = 64, of `MOST_TOKENS` at most: 37 MB; some 10,000 words of
an ordinary shop are 3 MB. Rows are local to this process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from profiles.hashing import HashIndex
from profiles.item_columns import CHANGED_BY_OTHERS
from profiles.jit import Integer, Real, compiled, compiled_inline
from profiles.negatives import start_vectors
from profiles.sharing import Sharing, rows_of_hashes

MOST_TOKENS = 131_072
"""A token beyond has no vector: its items are described by their other tokens."""

TEXT_SHARE = 2.0
"""What all tokens of an item weigh together against its own row."""

TEXT_DEVIATION = 0.3
"""Standard deviation of a token's start vector."""

DESCRIBED_DEVIATION = 0.05
"""The same of an item's own row that has tokens: they say more than its id does."""

TEXT_DRAWS = 4
"""Draws of each sort that move tokens, for all of them. Without any the table collapses."""


class Tokens(NamedTuple):
    """What kernels work on (W rows, K factors). Replaced when the table grows."""

    index_keys: NDArray[np.uint64]  # hash -> row, see `HashIndex`
    index_values: NDArray[np.int32]
    hash: NDArray[np.uint64]  # (W,)
    vectors: NDArray[np.float32]  # (W, K)
    sums: NDArray[np.float32]  # (W,) squared gradients so far, without the start value
    changed: NDArray[np.uint8]  # (W,) bits as in `ItemColumns`
    state: NDArray[np.int64]  # (1,) N_TOKENS


N_TOKENS = 0
"""Place in `Tokens.state`."""


class Learned(Protocol):
    """Rows that `token_step` moves."""

    @property
    def vectors(self) -> NDArray[np.float32]:
        """(W, K)"""

    @property
    def sums(self) -> NDArray[np.float32]:
        """(W,)"""

    @property
    def changed(self) -> NDArray[np.uint8]:
        """(W,)"""


@compiled
def n_tokens(text: NDArray[np.int32], item: Integer) -> Integer:
    """How many tokens an item has. text: (I, T) rows of tokens, -1 after the last."""
    n = 0
    while n < text.shape[1] and text[item, n] >= 0:
        n += 1
    return n


@compiled_inline
def read_item(
    vectors: NDArray[np.float32], text: NDArray[np.int32], tokens: Tokens, item: Integer,
    out: NDArray[np.float32],
) -> None:  # fmt: skip
    """Write the item's effective vector into out: float32 (K,). vectors: (I, K), own rows."""
    K = len(out)
    X = tokens.vectors
    n = n_tokens(text, item)
    if n == 0:
        for k in range(K):
            out[k] = vectors[item, k]
        return
    for k in range(K):
        out[k] = 0
    for number in range(n):
        token = text[item, number]
        for k in range(K):
            out[k] += X[token, k]
    share = np.float32(TEXT_SHARE) / np.float32(n)
    for k in range(K):
        out[k] = vectors[item, k] + share * out[k]


@compiled
def token_step(
    tokens: Learned, token: Integer, factor: Real, towards: NDArray[np.float32], square: Real,
    rate: Real, sum_start: Real,
) -> None:  # fmt: skip
    """One AdaGrad step of a token against factor * towards, whose square is factor^2 * square."""
    K = len(towards)
    X = tokens.vectors
    g = np.float32(factor)
    tokens.sums[token] += g * g * np.float32(square) / np.float32(K)
    move = g * np.float32(rate) / np.sqrt(np.float32(sum_start) + tokens.sums[token])
    for k in range(K):
        X[token, k] -= move * towards[k]
    tokens.changed[token] = 3


@compiled_inline
def text_step(
    tokens: Tokens, text: NDArray[np.int32], item: Integer, factor: Real,
    towards: NDArray[np.float32], square: Real, rate: Real, sum_start: Real,
) -> None:  # fmt: skip
    """The tokens' part of a gradient factor * towards on the effective vector of an item."""
    n = n_tokens(text, item)
    share = np.float32(factor) * np.float32(TEXT_SHARE) / np.float32(max(n, 1))
    for number in range(n):
        token_step(tokens, text[item, number], share, towards, square, rate, sum_start)


class TokenTable:
    """The tokens of one item table; its columns are handed to kernels.

    sharing: what others know of them, while the item table is shared.
    """

    clock_ms = 0  # nothing here decays
    ids: Sequence[str] = ()  # tokens are known by their hash alone

    def __init__(self, n_factors: int, capacity: int = 256, most: int = MOST_TOKENS) -> None:
        self.sharing: Sharing | None = None
        self._n_factors = n_factors
        self._most = most
        self._index = HashIndex(capacity)
        self.columns = self._columns(capacity)

    def __len__(self) -> int:
        return int(self.columns.state[N_TOKENS])

    @property
    def hashes(self) -> NDArray[np.uint64]:
        """Of the tokens, by row."""
        return self.columns.hash

    def rows_of_hashes(self, hashes: NDArray[np.uint64]) -> NDArray[np.int32]:
        """int32 (N,): the row of each; -1 for one that isn't there, and for 0."""
        return rows_of_hashes(self._index.keys, self._index.values, hashes)

    def intern(self, hashes: NDArray[np.uint64]) -> NDArray[np.int32]:
        """int32 (N,): rows, new ones with start vectors; -1 of hash 0, and when all are used."""
        rows = self._index.rows(hashes)
        new = list(dict.fromkeys(hashes[(rows < 0) & (hashes != 0)].tolist()))
        new = new[: self._most - len(self)]
        if not new:
            return rows
        self._add(np.array(new, np.uint64))
        return self._index.rows(hashes)

    def _add(self, new: NDArray[np.uint64]) -> None:
        first, end = len(self), len(self) + len(new)
        if end > len(self.columns.hash):
            self._grow(min(max(end, 2 * first), self._most))
        self._index.append(new)
        self.columns = self.columns._replace(
            index_keys=self._index.keys, index_values=self._index.values
        )
        self.columns.hash[first:end] = new
        start_vectors(self.columns.vectors, new, first, TEXT_DEVIATION)
        self.columns.changed[first:end] = 3 | CHANGED_BY_OTHERS  # others start it alike
        self.columns.state[N_TOKENS] = end
        if self.sharing is not None:
            self.sharing.grow(len(self.columns.hash))
            self.sharing.begin(first, self.columns.vectors[first:end])

    def start_vectors(self, rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """What tokens are before they learn: it depends on their hashes alone. Shape (N, K)."""
        start = np.zeros((len(rows), self._n_factors), np.float32)
        start_vectors(start, self.columns.hash[rows], 0, TEXT_DEVIATION)
        return start

    def restore(self, n: int) -> None:
        """n empty rows, of a table that has none, to be filled from a snapshot; then `index`."""
        self._grow(max(n, len(self.columns.hash)))
        self.columns.state[N_TOKENS] = n

    def index(self) -> None:
        """Make the index anew from the hashes."""
        self._index = HashIndex(len(self.columns.hash))
        self._index.append(self.columns.hash[: len(self)])
        self.columns = self.columns._replace(
            index_keys=self._index.keys, index_values=self._index.values
        )

    def _grow(self, capacity: int) -> None:
        present, bigger = self.columns, self._columns(capacity)
        n = len(self)
        for name in ("hash", "vectors", "sums", "changed"):
            getattr(bigger, name)[:n] = getattr(present, name)[:n]
        self.columns = bigger._replace(state=present.state)

    def _columns(self, capacity: int) -> Tokens:
        return Tokens(
            index_keys=self._index.keys,
            index_values=self._index.values,
            hash=np.zeros(capacity, np.uint64),
            vectors=np.zeros((capacity, self._n_factors), np.float32),
            sums=np.zeros(capacity, np.float32),
            changed=np.zeros(capacity, np.uint8),
            state=np.zeros(1, np.int64),
        )
