"""These tests kill servers and abandon clients on purpose, as a crash would.

What they leave open is closed by nobody, and warns when Python collects it, at any later moment. So
here those warnings are no errors, and each test collects its own before the next begins.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Generator
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Clients of a dead server are collected unclosed; elsewhere that stays an error."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore::ResourceWarning"))
            item.add_marker(
                pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
            )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Collect what a test has abandoned before another test meets it."""
    result = yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    return result
