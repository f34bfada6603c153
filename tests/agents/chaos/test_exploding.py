"""Nothing that explodes leaves a number behind that is not finite."""

from __future__ import annotations

import numpy as np
import pytest

from agents.chaos.exploding import CASES, N_ITEMS, Case, explode, not_finite
from profiles.items import ItemTable
from profiles.table import ProfileTable


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.name))
def test_every_stored_number_stays_finite_and_clips_are_counted(case: Case) -> None:
    result = explode(case, 6_000, seed=1)
    assert result.wrong == []
    assert result.n_folded == 6_000
    if "1e30" in case.name or case.name == "denormal weights":
        assert result.n_clipped >= 6_000


def test_a_number_that_is_not_finite_would_be_seen() -> None:
    config = CASES[0].config
    profiles, items = ProfileTable(config.shape), ItemTable(config.shape, config)
    users = [f"u{number}" for number in range(50)]
    profiles.load(users, [None] * 50)
    items.intern([f"i{number}" for number in range(N_ITEMS)])
    assert not_finite(profiles, items) == []
    items.columns.sums[3] = np.inf
    assert not_finite(profiles, items) == ["sums"]
