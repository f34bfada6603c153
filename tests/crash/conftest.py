"""These tests kill servers and leave workers in the middle, as a crash would.

Whatever a worker leaves open then is an error here as everywhere: each test collects its own, so
that the warning comes in the test that it belongs to.
"""

from __future__ import annotations

import gc
from collections.abc import Generator

import pytest


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown() -> Generator[None, object, object]:
    """Collect what a test has left before another test meets it."""
    result = yield
    gc.collect()
    return result
