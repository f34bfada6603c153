"""Lists as JSON: compiled, for a round of users at once.

A list has 20 items with 60 reasons; as Python strings, one by one, they took more than half of the
time of ranking it among 3,000 items. All compiled functions of this are in this file: numba's cache
looks at no other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar, cast

import msgspec
import numba
import numpy as np
from numpy.typing import NDArray

from streams.events import RankedItem

MOST_SCORE: Final = 1e12
"""A score beyond it is written as that."""

MOST_QUOTED: Final = 100_000
"""Ids kept as JSON; the next one begins anew."""

SCORE_DECIMALS, SHARE_DECIMALS = 5, 3

Integer: TypeAlias = Any
Real: TypeAlias = Any
Bytes: TypeAlias = NDArray[np.uint8]
Function = TypeVar("Function", bound=Callable[..., Any])

encode_text = msgspec.json.Encoder().encode


def _bytes(text: bytes) -> Bytes:
    return np.frombuffer(text, np.uint8).copy()


ITEM = _bytes(b'{"item_id":')
RANK = _bytes(b',"rank":')
SCORE = _bytes(b',"score":')
REASONS = _bytes(b',"reasons":[')
KIND = _bytes(b',"kind":')
AT = _bytes(b',"ts":')
SHARE = _bytes(b',"share":')
END = _bytes(b"]}")

LEAST_INTEGER: Final = -(2**63) + 1
"""One below it has no counterpart above nought."""

MOST_NUMBER: Final = 24
"""Bytes of one: a sign, 19 digits, a point, room."""

AN_ITEM: Final = sum(map(len, (ITEM, RANK, SCORE, REASONS, END))) + 1 + 2 * MOST_NUMBER
A_REASON: Final = sum(map(len, (ITEM, KIND, AT, SHARE))) + 2 + 2 * MOST_NUMBER


@dataclass(frozen=True, slots=True)
class Ranked:
    """One user's list. profile_offset: of the newest event behind it, None without a profile.

    text: its items, each a `RankedItem` as JSON, best first, with commas between. ends: where each
    ends.
    """

    profile_offset: int | None
    text: bytes = b""
    ends: tuple[int, ...] = ()

    @classmethod
    def of(cls, profile_offset: int | None, items: Sequence[RankedItem]) -> Ranked:
        """Of items as they are."""
        texts = [encode_text(item) for item in items]
        ends = np.cumsum([len(text) + 1 for text in texts], dtype=np.int64) - 1
        return cls(profile_offset, b",".join(texts), tuple(ends.tolist()))

    def __len__(self) -> int:
        """How many items."""
        return len(self.ends)

    def first(self, n: int | None) -> Ranked:
        """The list with its best n items alone; None: with all."""
        if n is None or n >= len(self):
            return self
        ends = self.ends[:n]
        return Ranked(self.profile_offset, self.text[: ends[-1]] if ends else b"", ends)

    def followed_by(self, other: Ranked) -> Ranked:
        """The items of another list behind ours."""
        if not self.ends or not other.ends:
            return self if self.ends else replace(other, profile_offset=self.profile_offset)
        ends = [self.ends[-1] + 1 + end for end in other.ends]
        return replace(self, text=self.text + b"," + other.text, ends=(*self.ends, *ends))

    @property
    def items(self) -> list[RankedItem]:
        """The list for who looks at it here."""
        return msgspec.json.decode(self._raw, type=list[RankedItem])

    @property
    def sendable(self) -> list[RankedItem]:
        """The list for who only sends it on: msgspec writes it out as it is."""
        return cast("list[RankedItem]", self._raw)

    @property
    def _raw(self) -> msgspec.Raw:
        return msgspec.Raw(b"[" + self.text + b"]")


class Texts(NamedTuple):
    """Texts behind one another."""

    text: Bytes
    at: NDArray[np.int64]  # (N + 1,) where each begins, and the end
    longest: int


def texts_of(texts: Sequence[bytes]) -> Texts:
    """Of some, in their order."""
    at = np.array([0, *accumulate(map(len, texts))], np.int64)
    return Texts(_bytes(b"".join(texts)), at, max(map(len, texts), default=0))


class Quoted:
    """Ids of a view's items as JSON."""

    def __init__(self) -> None:
        self._quoted: dict[int, bytes] = {}
        self._version = -1

    def of(self, ids: Sequence[str], version: int, rows: NDArray[np.integer[Any]]) -> Texts:
        """Of some rows, in their order; -1 has no text. version: of the ids; a row of another one
        is another item."""
        quoted = self._quoted
        if version != self._version or len(quoted) > MOST_QUOTED:
            quoted.clear()
            quoted[-1] = b""
            self._version = version
        wanted = rows.ravel().tolist()
        for row in wanted:
            if row not in quoted:
                quoted[row] = encode_text(ids[row])
        return texts_of([quoted[row] for row in wanted])


class Past(NamedTuple):
    """H past events of B users each."""

    ids: Texts  # B * H ids of items as JSON
    time_ms: NDArray[np.int64]  # (B, H)
    kind: NDArray[np.uint8]  # (B, H) number of its name
    kinds: Texts  # names as JSON


def write_lists(
    offsets: Sequence[int | None],
    ranked: NDArray[np.int32],
    ids: Texts,
    scores: NDArray[np.float32],
    past: Past,
    why: NDArray[np.int32],
    shares: NDArray[np.float32],
    least_share: float,
) -> list[Ranked]:
    """B lists of n items at most, with R reasons each at most.

    offsets: of each profile. ranked: (B, n), -1 where a list ends; ids: B * n, as JSON; scores:
    (B, n). why: (B, n, R) places among the past events, -1 for none; shares: of the same; below
    `least_share`, or no number, or of a kind without a name, they are left out.
    """
    B, n, R = why.shape
    a_reason = A_REASON + past.ids.longest + past.kinds.longest
    out = np.empty(B * n * (AN_ITEM + ids.longest + R * a_reason), np.uint8)
    ends = np.empty((B, n), np.int64)
    starts = np.zeros(B + 1, np.int64)
    _write(ranked, ids, scores, past, why, shares, least_share, starts, ends, out)
    written = out[: starts[-1]].tobytes()
    return [
        Ranked(offset, written[start:stop], tuple([end for end in of if end >= 0]))
        for offset, (start, stop), of in zip(
            offsets, pairwise(starts.tolist()), ends.tolist(), strict=True
        )
    ]


def warmup() -> None:
    """Compile it, or load it from the cache of an earlier run."""
    text = texts_of([b'"a"'])
    past = Past(text, np.zeros((1, 1), np.int64), np.zeros((1, 1), np.uint8), text)
    share = np.zeros((1, 1), np.float32)
    why = np.zeros((1, 1, 1), np.int32)
    write_lists([None], np.zeros((1, 1), np.int32), text, share, past, why, share[None], 0.0)


def _compiled(function: Function) -> Function:
    """As `profiles.jit` compiles."""
    result: Function = numba.njit(cache=True, nogil=True, error_model="numpy", _nrt=False)(function)
    return result


@_compiled
def _put(out: Bytes, at: Integer, text: Bytes) -> Integer:
    for k in range(len(text)):
        out[at + k] = text[k]
    return at + len(text)


@_compiled
def _put_one(out: Bytes, at: Integer, texts: Texts, number: Integer) -> Integer:
    first = texts.at[number]
    n = texts.at[number + 1] - first
    for k in range(n):
        out[at + k] = texts.text[first + k]
    return at + n


@_compiled
def _put_integer(out: Bytes, at: Integer, value: Integer) -> Integer:
    """Its decimal digits, with a sign where it is negative; the least is written as the next."""
    if value < 0:
        value = max(value, LEAST_INTEGER)
        out[at] = 45  # -
        at += 1
        value = -value
    n = 1
    rest = value // 10
    while rest > 0:
        n += 1
        rest //= 10
    for k in range(n - 1, -1, -1):
        out[at + k] = 48 + value % 10
        value //= 10
    return at + n


@_compiled
def _put_real(out: Bytes, at: Integer, value: Real, decimals: Integer) -> Integer:
    """Rounded to so many decimals, without noughts at the end but for the first decimal."""
    scale = np.int64(1)
    for _ in range(decimals):
        scale *= 10
    most = np.float64(MOST_SCORE)
    scaled = np.int64(np.rint(min(max(np.float64(value), -most), most) * np.float64(scale)))
    if scaled < 0:
        out[at] = 45  # -
        at += 1
        scaled = -scaled
    at = _put_integer(out, at, scaled // scale)
    rest = scaled % scale
    while decimals > 1 and rest % 10 == 0:
        rest //= 10
        decimals -= 1
    out[at] = 46  # .
    for k in range(decimals, 0, -1):
        out[at + k] = 48 + rest % 10
        rest //= 10
    return at + 1 + decimals


@_compiled
def _write(
    ranked: NDArray[np.int32], ids: Texts, scores: NDArray[np.float32], past: Past,
    why: NDArray[np.int32], shares: NDArray[np.float32], least_share: Real,
    starts: NDArray[np.int64], ends: NDArray[np.int64], out: Bytes,
) -> None:  # fmt: skip
    """ends: (B, n) from each list's beginning, -1 where there is no item."""
    B, n, R = why.shape
    H = past.time_ms.shape[1]
    n_kinds = len(past.kinds.at) - 1  # nothing here is looked up beyond its end
    at = np.int64(0)
    for b in range(B):
        ends[b] = -1
        for i in range(n):
            if ranked[b, i] < 0:
                break
            if i > 0:
                out[at] = 44  # ,
                at += 1
            at = _put(out, at, ITEM)
            at = _put_one(out, at, ids, b * n + i)
            at = _put(out, at, RANK)
            at = _put_integer(out, at, np.int64(i + 1))
            at = _put(out, at, SCORE)
            at = _put_real(out, at, scores[b, i], SCORE_DECIMALS)
            at = _put(out, at, REASONS)
            n_written = 0
            for r in range(R):
                a = np.int64(why[b, i, r])
                if a < 0 or not shares[b, i, r] >= least_share or past.kind[b, a] >= n_kinds:
                    continue
                if n_written > 0:
                    out[at] = 44
                    at += 1
                n_written += 1
                at = _put(out, at, ITEM)
                at = _put_one(out, at, past.ids, b * H + a)
                at = _put(out, at, KIND)
                at = _put_one(out, at, past.kinds, np.int64(past.kind[b, a]))
                at = _put(out, at, AT)
                at = _put_integer(out, at, past.time_ms[b, a])
                at = _put(out, at, SHARE)
                at = _put_real(out, at, shares[b, i, r], SHARE_DECIMALS)
                out[at] = 125  # }
                at += 1
            at = _put(out, at, END)
            ends[b, i] = at - starts[b]
        starts[b + 1] = at
