"""Vectors of tokens: the effective vector of an item, what moves it, and the bounds."""

from __future__ import annotations

import numpy as np
import pytest

from profiles.reference_catalogue import ReferenceTokens
from profiles.tokens import TEXT_DEVIATION, TokenTable, read_item, text_step

K = 8


def test_the_effective_vector_and_its_steps_are_those_of_the_plain_maths() -> None:
    draws = np.random.default_rng(2)
    table, plain = TokenTable(K, capacity=1), ReferenceTokens(0.1, 0.1)
    hashes = [int(key) for key in draws.integers(1, 2**63, 9)]
    assert table.intern(np.array(hashes, np.uint64)).tolist() == list(range(9))
    plain.vectors = {key: table.columns.vectors[n].copy() for n, key in enumerate(hashes)}
    text = np.full((4, 3), -1, np.int32)
    for item, tokens in enumerate([[], [4], [0, 8], [3, 4, 5]]):
        text[item, : len(tokens)] = tokens
    own = draws.normal(0, 0.2, (4, K)).astype(np.float32)
    out = np.zeros(K, np.float32)
    for _ in range(50):
        item = int(draws.integers(0, 4))
        tokens = [hashes[row] for row in text[item] if row >= 0]
        read_item(own, text, table.columns, item, out)
        assert out == pytest.approx(plain.effective(own[item], tokens), abs=1e-5)
        towards = draws.normal(0, 1, K).astype(np.float32)
        factor = float(np.float32(draws.normal()))
        square = float(towards @ towards)
        text_step(table.columns, text, item, factor, towards, square, 0.1, 0.1)
        plain.step(tokens, factor * towards.astype(float))
    for row, key in enumerate(hashes):
        assert table.columns.vectors[row] == pytest.approx(plain.vectors[key], abs=1e-5)
        assert table.columns.sums[row] == pytest.approx(plain.sums.get(key, 0.0), rel=1e-5)


def test_a_start_vector_depends_on_the_token_alone_and_has_the_stated_spread() -> None:
    one, other = TokenTable(64), TokenTable(64, capacity=1)
    one.intern(np.arange(1, 1001, dtype=np.uint64))
    other.intern(np.array([500], np.uint64))
    assert one.columns.vectors[499].tolist() == other.columns.vectors[0].tolist()
    assert abs(one.columns.vectors[:1000].std() - TEXT_DEVIATION) < 0.01


def test_there_are_never_more_tokens_than_stated() -> None:
    table = TokenTable(K, capacity=1, most=3)
    hashes = np.array([7, 8, 7, 0, 9, 10], np.uint64)
    assert table.intern(hashes[:1]).tolist() == [0]
    assert table.intern(hashes).tolist() == [0, 1, 0, -1, 2, -1]
    assert len(table.columns.hash) == 3
