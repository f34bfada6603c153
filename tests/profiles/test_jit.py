"""How kernels are compiled."""

from __future__ import annotations

import importlib
import pkgutil

import numba
import numpy as np
import pytest
from numba.core.registry import CPUDispatcher

import profiles


def kernels() -> dict[str, CPUDispatcher]:
    """Every compiled function of the package."""
    modules = [
        importlib.import_module(f"profiles.{module.name}")
        for module in pkgutil.iter_modules(profiles.__path__)
    ]
    return {
        f"{thing.py_func.__module__}.{name}": thing
        for module in modules
        for name, thing in vars(module).items()
        if isinstance(thing, CPUDispatcher)
    }


def test_kernels_count_no_references() -> None:
    """A locked instruction for each of the model's arrays at each call was half of the fold's
    time."""
    found = kernels()
    assert "profiles.kernel.fold_events" in found
    assert [name for name, kernel in found.items() if kernel.targetoptions["_nrt"]] == []


@pytest.mark.parametrize("counts", [True, False])
def test_the_option_does_what_it_says(counts: bool) -> None:
    """It is private to numba: whoever raises the pin is told here."""

    def first(array: np.ndarray, row: int) -> float:
        return float(array[row][0])

    kernel = numba.njit(first, _nrt=counts)
    kernel(np.ones((2, 3)), 1)
    assert any("NRT_decref" in code for code in kernel.inspect_llvm().values()) == counts
