"""How this package compiles: one decorator, so that every kernel has the same flags and cache.

Compiled functions count no references and so can't make arrays (`_nrt=False`): all they work on is
handed in and outlives the call. Counting a whole model's arrays at each call from one function to
the next, one locked instruction an array, took more than half of the fold's time
(docs/decisions/0060-no-reference-counts.md). A row is therefore copied by a loop: numba makes a
copy of it for `A[i] = A[j]`.

`fastmath` has three flags and no more: with all of fast-math NaN scores rank first and checks for
them vanish, and the speed is the same (docs/decisions/0009-kernel-cache.md). The GIL is
released, so heartbeats of the event loop go on while a batch is folded.

numba's cache looks only at the file of the function that is called, not at the files of the
functions it calls: after an upgrade that changes `negatives.py` alone, a stale kernel would go on
drawing the old way. Constants of modules that compile nothing are frozen into kernels, too.
`compiled` therefore stamps the cache with all sources of this package.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numba
from numba.core.registry import CPUDispatcher

Integer: TypeAlias = Any
Real: TypeAlias = Any
"""Scalars of compiled functions: Python's outside, the machine's (np.int64, np.float32) inside."""

Function = TypeVar("Function", bound=Callable[..., Any])

FASTMATH = frozenset({"reassoc", "contract", "nsz"})

if sys.byteorder != "little":
    raise ImportError("foldstream writes records as they lie in memory: little endian only")


SOURCES = tuple(sorted(Path(__file__).parent.glob("*.py")))


def stamp_of(sources: Iterable[Path]) -> tuple[str, int]:
    """Digest of modules, in the place of numba's file time."""
    digest = blake2b(digest_size=16)
    for path in sources:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest(), 0


_STAMP = stamp_of(SOURCES)


def compiled(function: Function) -> Function:
    """`function` as machine code: cached on disk, GIL released, division by zero not checked."""
    return _compiled(function, inline=False)


def compiled_inline(function: Function) -> Function:
    """As `compiled`, and written into the compiled functions that call it.

    For small ones that are called for every candidate: handing over the model's arrays, seven words
    each, costs more than what they do.
    """
    return _compiled(function, inline=True)


def _compiled(function: Function, *, inline: bool) -> Function:
    dispatcher: Any = numba.njit(
        cache=True,
        nogil=True,
        fastmath=set(FASTMATH),
        error_model="numpy",
        _nrt=False,
        inline="always" if inline else "never",
    )(function)
    cache_file = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
    if cache_file is not None:  # private to numba, pinned below 0.69; a test watches it
        cache_file._source_stamp = _STAMP
    result: Function = dispatcher
    return result


class _Inner(CPUDispatcher):  # type: ignore[misc]  # numba has no types
    """A compiled function without the way in from Python, which would crash."""

    def __call__(self, *_args: Any, **_kwargs: Any) -> Any:
        raise TypeError(f"{self.py_func.__name__} can only be called by compiled functions")


def compiled_inner(function: Function) -> Function:
    """`function` as machine code for other compiled functions alone, written into them.

    Half the time of compiling a small function that takes the whole model goes into unpacking the
    model's arrays for callers in Python.
    """
    dispatcher: Any = numba.njit(
        nogil=True,
        fastmath=set(FASTMATH),
        error_model="numpy",
        _nrt=False,
        no_cpython_wrapper=True,
        no_cfunc_wrapper=True,
        inline="always",
    )(function)
    if isinstance(dispatcher, CPUDispatcher):  # none with NUMBA_DISABLE_JIT=1
        dispatcher.__class__ = _Inner
    result: Function = dispatcher
    return result
