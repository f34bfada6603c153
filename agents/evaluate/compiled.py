"""How rivals and judge are compiled: the flags of `profiles.jit`, and a cache of their own.

numba's cache looks only at the file of the function that is called; `compiled` stamps it with all
sources here and with the kernel's stamp, for rivals call its functions too.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

import numba

from profiles.jit import FASTMATH

Function = TypeVar("Function", bound=Callable[..., Any])


def _sources_stamp() -> tuple[str, int]:
    digest = blake2b(digest_size=16)
    here = Path(__file__).parent
    for path in sorted([*here.rglob("*.py"), *(here.parents[1] / "profiles").glob("*.py")]):
        source = path.read_bytes()
        if b"compiled" in source:
            digest.update(path.name.encode() + b"\0" + source)
    return digest.hexdigest(), 0


_STAMP = _sources_stamp()


def compiled(function: Function) -> Function:
    """`function` as machine code, cached on disk."""
    dispatcher: Any = numba.njit(
        cache=True, nogil=True, fastmath=set(FASTMATH), error_model="numpy"
    )(function)
    cache_file = getattr(dispatcher._cache, "_cache_file", None)
    if cache_file is not None:
        cache_file._source_stamp = _STAMP
    result: Function = dispatcher
    return result
