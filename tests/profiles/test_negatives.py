"""Draws: even, and a function of (partition, offset, number) alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from profiles.jit import SOURCES, compiled, stamp_of
from profiles.negatives import draw_below, event_seed


def test_draws_are_even_over_numbers_and_over_offsets() -> None:
    bound, n = 10, 20_000
    by_number = [draw_below(np.uint64(event_seed(3, 77)), b, bound) for b in range(n)]
    by_offset = [draw_below(np.uint64(event_seed(3, b)), 0, bound) for b in range(n)]
    for drawn in (by_number, by_offset):
        counts = np.bincount(drawn, minlength=bound)
        chi_square = ((counts - n / bound) ** 2 / (n / bound)).sum()
        assert chi_square < 28  # 1 in 1,000 for 9 degrees of freedom; the draws are fixed


def test_partitions_draw_differently() -> None:
    assert event_seed(0, 5) != event_seed(1, 5)
    assert event_seed(0, 5) == event_seed(0, 5)


def test_the_cache_of_compiled_code_watches_all_sources() -> None:
    """numba alone would go on with a stale kernel after a change in a module that it calls."""

    def double(x: int) -> int:
        return 2 * x

    dispatcher = compiled(double)
    stamp = dispatcher._cache._cache_file._source_stamp  # type: ignore[attr-defined]
    assert isinstance(stamp[0], str)
    assert stamp == draw_below._cache._cache_file._source_stamp  # type: ignore[attr-defined]


def test_a_changed_constant_makes_another_stamp(tmp_path: Path) -> None:
    """Modules that compile nothing hold constants that are frozen into kernels."""
    assert {"facets.py", "item_columns.py", "negatives.py"} <= {path.name for path in SOURCES}
    source = tmp_path / "constants.py"
    source.write_text("A = 1")
    before = stamp_of([source])
    source.write_text("A = 2")
    assert stamp_of([source]) != before
