"""Files read as streams of events and catalogue items; knows no broker.

`scan_file` gives a file's SHA-256 and number of lines, `EventFile` its messages. CSV by a mapping,
JSON lines by a mapping or already in the events (or items) format; gzip is seen from the first
bytes. A line is all or nothing: what can't be an event is counted by reason, and reading goes on.
Equal files give equal event ids: 16 hex digits of the file's SHA-256, the line, and a suffix.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import heapq
import io
import itertools
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, get_args

import msgspec

from streams.errors import MappingError
from streams.events import INTERACTIONS, Event, Item, event_union
from streams.mappings.compiled import LineMapper, LineRejected, reason_of
from streams.mappings.mapping import NamedMapping, detect_mapping, load_mapping

Message = Event | Item

MAX_HELD = 100_000
"""Events held back to be sorted by time; beyond it the earliest leaves, sorted or not."""

READY_FORMATS = ("events", "items")
"""JSON lines that need no mapping: `--mapping` takes these names too."""


@dataclass(frozen=True, slots=True)
class FileScan:
    """sha256: 64 hex digits, of the file as it lies there. n_lines: with the header line."""

    sha256: str
    n_lines: int


@dataclass(slots=True)
class ReadCounts:
    """What came of the lines. lines = accepted + rejected lines; the header counts as none.

    accepted: lines that gave their events (or, in a catalogue, their item). events, items:
    messages given. repeated: events left out as counted before (a search with several clicks).
    rejected: lines by reason. rejected_items: catalogue entries out of bounds, whose events count.
    """

    lines: int = 0
    accepted: int = 0
    events: int = 0
    items: int = 0
    repeated: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    rejected_items: Counter[str] = field(default_factory=Counter)


def scan_file(path: Path, on_bytes: Callable[[int], None] = lambda n: None) -> FileScan:
    """Read a file once for its identity and length.

    on_bytes: told how many bytes of the file have been read, for a progress display.
    Raises MappingError when the file cannot be read.
    """
    digest = hashlib.sha256()
    n_lines, last = 0, b"\n"
    with _explained(path):
        with path.open("rb") as raw:
            while block := raw.read(1 << 20):
                digest.update(block)
                on_bytes(raw.tell())
        with _open(path) as lines:
            while block := lines.read(1 << 20):
                n_lines += block.count(b"\n")
                last = block[-1:]
    return FileScan(digest.hexdigest(), n_lines + (last != b"\n"))


class EventFile:
    """One file and the mapping that reads it.

    mapping: a ready mapping's name, a TOML file, ``events`` or ``items`` (JSON lines in our own
    format), or None: found from the first line. sha256: as `scan_file` gives it.
    extra_kinds: the shop's own event classes, by type.
    Raises MappingError when the file can't be read or no mapping fits.
    """

    def __init__(
        self,
        path: Path,
        sha256: str,
        mapping: str | None = None,
        extra_kinds: dict[str, type[Event]] | None = None,
    ) -> None:
        self.path = path
        self._id_prefix = sha256[:16]
        self._kinds = {str(kind.__struct_config__.tag): kind for kind in INTERACTIONS}
        self._kinds |= extra_kinds or {}
        self._mapping: NamedMapping | Literal["events", "items"]
        with _explained(path), _open(path) as lines:
            first_line = lines.readline(1 << 20)
        self._mapping = self._choose(first_line, mapping)
        self.counts = ReadCounts()
        self._held: list[tuple[int, int, int, Event]] = []
        self._line = 0
        self._line_ms = 0

    @property
    def mapping_name(self) -> str:
        """Name of the mapping in use."""
        return self._mapping if isinstance(self._mapping, str) else self._mapping.name

    @property
    def mapping_fingerprint(self) -> str:
        """Eight hex digits that change with the mapping's content."""
        return hashlib.sha256(repr(self._mapping).encode()).hexdigest()[:8]

    def finished_line(self) -> int:
        """All messages of the lines up to this one have been given."""
        return min((line for _, _, line, _ in self._held), default=self._line + 1) - 1

    def messages(self, limit: int | None = None) -> Iterator[tuple[int, Message]]:
        """Pairs of line number and event or item, in the order to be sent; resets the counts.

        An item comes before the events of its line. limit: lines to read at most.
        Raises MappingError when the file breaks off (a cut gzip file).
        """
        self.counts = ReadCounts()
        self._held, self._line = [], 0
        with _explained(self.path), _open(self.path) as lines:
            if isinstance(self._mapping, str):
                yield from self._read_own(lines, limit, self._mapping)
            elif self._mapping.mapping.sort_by_time:
                yield from self._sorted(self._read_mapped(lines, limit, self._mapping))
            else:
                yield from self._read_mapped(lines, limit, self._mapping)

    def _choose(
        self, first_line: bytes, mapping: str | None
    ) -> NamedMapping | Literal["events", "items"]:
        if mapping == "events":
            return "events"
        if mapping == "items":
            return "items"
        if mapping is not None:
            return load_mapping(mapping)
        if not first_line.strip():
            raise MappingError(f"{self.path}: the first line is empty; give --mapping")
        if first_line.lstrip(b"\xef\xbb\xbf \t").startswith(b"{"):
            try:
                document = msgspec.json.decode(first_line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise MappingError(
                    f"{self.path}: the first line is not JSON ({error}); give --mapping"
                ) from error
            if "type" in document and "user_id" in document:
                return "events"
            if "item_id" in document and "user_id" not in document:
                return "items"
            return detect_mapping(list(document), "jsonl", str(self.path))
        return detect_mapping(_header(first_line, ",", self.path), "csv", str(self.path))

    def _read_mapped(
        self, lines: IO[bytes], limit: int | None, named: NamedMapping
    ) -> Iterator[tuple[int, Message]]:
        counts = self.counts
        is_csv = named.mapping.format == "csv"
        columns = _header(lines.readline(), named.mapping.delimiter, self.path) if is_csv else []
        mapper = LineMapper(named, columns, self._kinds, self._id_prefix)
        is_catalogue = not named.events
        rows = (
            _csv_rows(lines, len(columns), named.mapping.delimiter) if is_csv else _json_rows(lines)
        )
        for line, row, problem in itertools.islice(rows, limit):
            counts.lines += 1
            self._line = line - 1  # not finished while it is being given
            if problem:
                counts.rejected[problem] += 1
                continue
            try:
                events = mapper.map_line(row, line)
            except LineRejected as rejected:
                counts.rejected[rejected.reason] += 1
                continue
            try:
                item = mapper.map_item(row)
            except LineRejected as rejected:
                item = None
                if is_catalogue:
                    counts.rejected[rejected.reason] += 1
                    continue
                counts.rejected_items[rejected.reason] += 1
            counts.accepted += 1
            counts.repeated = mapper.n_repeated
            self._line_ms = mapper.line_ms
            if item is not None:
                counts.items += 1
                yield line, item
            counts.events += len(events)
            for event in events:
                yield line, event
        self._line += 1

    def _sorted(self, messages: Iterable[tuple[int, Message]]) -> Iterator[tuple[int, Message]]:
        """Hold events back until a later line begins after them (lines are sorted by time)."""
        numbers = itertools.count()
        for line, message in messages:
            while self._held and (self._held[0][0] <= self._line_ms or len(self._held) > MAX_HELD):
                _, _, held_line, event = heapq.heappop(self._held)
                yield held_line, event
            if isinstance(message, Item):
                yield line, message
            else:
                heapq.heappush(self._held, (message.ts, next(numbers), line, message))
        while self._held:
            _, _, held_line, event = heapq.heappop(self._held)
            yield held_line, event

    def _read_own(
        self, lines: IO[bytes], limit: int | None, kind: Literal["events", "items"]
    ) -> Iterator[tuple[int, Message]]:
        counts = self.counts
        for line, document, problem in itertools.islice(_json_rows(lines), limit):
            counts.lines += 1
            self._line = line - 1
            if problem:
                counts.rejected[problem] += 1
                continue
            try:
                message = self._own_message(document, line, kind)
            except LineRejected as rejected:
                counts.rejected[rejected.reason] += 1
                continue
            counts.accepted += 1
            if isinstance(message, Item):
                counts.items += 1
            else:
                counts.events += 1
            yield line, message
        self._line += 1

    def _own_message(self, document: dict[str, Any], line: int, kind: str) -> Message:
        try:
            if kind == "items":
                return msgspec.convert(document, Item)
            event_type = document.get("type")
            if not isinstance(event_type, str):
                raise LineRejected("missing_type")
            event_class = self._kinds.get(event_type)
            if event_class is None:
                raise LineRejected("unknown_type")
            if document.get("event_id") is None:
                document["event_id"] = f"{self._id_prefix}:{line}"
            return msgspec.convert(document, event_class)
        except msgspec.ValidationError as error:
            raise LineRejected(reason_of(error)) from None


def own_kinds(names: Sequence[str]) -> dict[str, type[Event]]:
    """Event classes of a shop's own kinds of interaction, by type, for `EventFile`.

    >>> sorted(own_kinds(["favourite"]))
    ['favourite']
    """
    classes = {str(kind.__struct_config__.tag): kind for kind in get_args(event_union(names))}
    return {name: classes[name] for name in names}


def _open(path: Path) -> IO[bytes]:
    """The file's bytes, unpacked if it is a gzip file."""
    raw = path.open("rb")
    try:
        is_gzip = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
    except OSError:
        raw.close()
        raise
    return io.BufferedReader(_OwningGzip(raw), 1 << 20) if is_gzip else raw


class _OwningGzip(gzip.GzipFile):
    """A GzipFile that closes the file below it."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw_file = raw
        super().__init__(fileobj=raw, mode="rb")

    def close(self) -> None:
        super().close()
        self._raw_file.close()


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except EOFError as error:
        raise MappingError(f"{path}: the gzip file breaks off; fetch it again") from error
    except (zlib.error, gzip.BadGzipFile) as error:
        raise MappingError(f"{path}: the gzip file is damaged ({error})") from error
    except OSError as error:
        raise MappingError(f"{path}: cannot be read ({error.strerror or error})") from error


def _header(line: bytes, delimiter: str, path: Path) -> list[str]:
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MappingError(f"{path}: the header line is not UTF-8 ({error})") from error
    columns = next(csv.reader([text], delimiter=delimiter), [])
    return [column.strip() for column in columns]


def _csv_rows(
    lines: IO[bytes], n_columns: int, delimiter: str
) -> Iterator[tuple[int, list[str], str | None]]:
    """Line number, cells, and why the line can't be used; the header line has been read.

    The number is that of a record's last line, as editors count.
    """
    bad_utf8 = False

    def decoded() -> Iterator[str]:
        nonlocal bad_utf8
        for raw in lines:
            try:
                yield raw.decode()
            except UnicodeDecodeError:
                bad_utf8 = True
                yield raw.decode(errors="replace")

    reader = csv.reader(decoded(), delimiter=delimiter)
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error:  # a cell of more than 131,072 characters, mostly a quote left open
            yield reader.line_num + 1, [], "invalid_csv"
            continue
        problem = None
        if bad_utf8:
            problem, bad_utf8 = "invalid_utf8", False
        elif len(row) != n_columns:
            problem = "wrong_columns" if row else "empty_line"
        yield reader.line_num + 1, row, problem


def _json_rows(lines: IO[bytes]) -> Iterator[tuple[int, dict[str, Any], str | None]]:
    """Line number, object, and why the line can't be used."""
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    for number, raw in enumerate(lines, start=1):
        problem = None
        document: dict[str, Any] = {}
        try:
            document = decode(raw)
        except msgspec.ValidationError:
            problem = "not_an_object"
        except UnicodeDecodeError:
            problem = "invalid_utf8"
        except (msgspec.DecodeError, RecursionError):
            problem = "invalid_json" if raw.strip() else "empty_line"
        yield number, document, problem
