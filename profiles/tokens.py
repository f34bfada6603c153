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
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from profiles.hashed_rows import HashedRows
from profiles.item_columns import CHANGED_BY_OTHERS
from profiles.jit import Integer, Real, compiled, compiled_inline
from profiles.negatives import start_vectors
from profiles.sharing import Sharing, rows_of_hashes

MOST_TOKENS = 131_072
"""When all are used, a token gets the row of one that hardly any item has, if it is seen often
(`gate`); else it has no vector: its items are described by their other tokens."""

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


class TokenTable(HashedRows):
    """The tokens of one item table.

    sharing: what others know of them, while the item table is shared.
    """

    columns: Tokens
    clock_ms = 0  # nothing here decays
    ids: Sequence[str] = ()  # tokens are known by their hash alone

    def __init__(self, n_factors: int, capacity: int = 256, most: int = MOST_TOKENS) -> None:
        self.sharing: Sharing | None = None
        self._n_factors = n_factors
        super().__init__(capacity, most)

    def rows_of_hashes(self, hashes: NDArray[np.uint64]) -> NDArray[np.int32]:
        """int32 (N,): the row of each; -1 for one that isn't there, and for 0."""
        return rows_of_hashes(self._index.keys, self._index.values, hashes)

    def intern(self, hashes: NDArray[np.uint64], *, freed: bool = False) -> NDArray[np.int32]:
        """int32 (N,): rows, new ones with start vectors; -1 of hash 0, and when all are used.

        freed: rows that were given up may be taken, too: of what is seen often, here or elsewhere.
        """
        return self._intern(hashes, freed)

    def start_vectors(self, rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """What tokens are before they learn: it depends on their hashes alone. Shape (N, K)."""
        start = np.zeros((len(rows), self._n_factors), np.float32)
        start_vectors(start, self.columns.hash[rows], 0, TEXT_DEVIATION)
        return start

    def _begin(self, rows: NDArray[np.int64], hashes: NDArray[np.uint64], **_: Any) -> None:
        self.columns.hash[rows] = hashes
        start = self.start_vectors(rows.astype(np.int32))
        self.columns.vectors[rows] = start
        self.columns.changed[rows] = 3 | CHANGED_BY_OTHERS  # others start it alike
        if self.sharing is not None:
            self.sharing.grow(len(self.columns.hash))
            self.sharing.replace(rows, start)

    def _empty(self, rows: NDArray[np.int64]) -> None:
        self.columns.vectors[rows] = 0
        self.columns.sums[rows] = 0
        self.columns.changed[rows] = 3 | CHANGED_BY_OTHERS
        if self.sharing is not None:
            self.sharing.replace(rows, self.columns.vectors[rows])

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
