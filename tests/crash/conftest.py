"""These tests kill servers and leave workers in the middle, as a crash would.

Whatever a worker leaves open then is an error here as everywhere: each test collects its own, so
that the warning comes in the test that it belongs to.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Generator

import pytest


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown() -> Generator[None, object, object]:
    """Collect what a test has left before another test meets it."""
    result = yield
    # Tasks of a worker that was left in the middle have failed, as they should; asyncio would say
    # so in a log that is closed by now.
    told = logging.getLogger("asyncio")
    told.disabled = True
    try:
        gc.collect()
    finally:
        told.disabled = False
    return result
