"""How rivals and judge are compiled: the flags of `profiles.jit`, and a cache of their own.

numba's cache looks only at the file of the function that is called; `compiled` stamps it with all
sources here and with those of `profiles`, for rivals call its functions too.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba

from profiles.jit import FASTMATH, SOURCES, stamp_of

Function = TypeVar("Function", bound=Callable[..., Any])


_STAMP = stamp_of((*sorted(Path(__file__).parent.rglob("*.py")), *SOURCES))


def compiled(function: Function) -> Function:
    """`function` as machine code, cached on disk."""
    dispatcher: Any = numba.njit(
        cache=True, nogil=True, fastmath=set(FASTMATH), error_model="numpy"
    )(function)
    cache = getattr(dispatcher, "_cache", None)  # none with NUMBA_DISABLE_JIT=1
    cache_file = getattr(cache, "_cache_file", None)
    if cache_file is not None:
        cache_file._source_stamp = _STAMP
    result: Function = dispatcher
    return result
