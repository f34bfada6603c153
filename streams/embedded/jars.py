"""The broker's jars: fetched once through jgo, pinned by hash, offline from then on.

Owns the cache folder (`FOLDSTREAM_CACHE`, else `$XDG_CACHE_HOME/foldstream`, else
`~/.cache/foldstream`). What stays true: a jar is handed out only when its SHA-256 is the one in
`kafka-4.3.1.sha256`, checked at every start (44 MB, about 0.1 s); a damaged one is fetched again.
One process fetches at a time: others of the same cache wait for it and find what it brought.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from streams.errors import EmbeddedError

KAFKA_VERSION = "4.3.1"
# slf4j-simple beside it: without a binding the broker says nothing at all, not even why it ended.
COORDINATES = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}+org.slf4j:slf4j-simple:1.7.36"
PINS = Path(__file__).with_name(f"kafka-{KAFKA_VERSION}.sha256")

Fetch = Callable[[Path], Iterable[Path]]
"""Brings jars into a scratch folder (argument) or finds them elsewhere; returns where they lie."""


def cache_folder() -> Path:
    """Where downloads are kept; made on first use by whoever writes there."""
    if own := os.environ.get("FOLDSTREAM_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "foldstream"


def read_pins(path: Path = PINS) -> dict[str, str]:
    """File name -> SHA-256 in hex, from lines as `sha256sum` writes them."""
    pins = {}
    for line in path.read_text().splitlines():
        digest, _, name = line.partition("  ")
        pins[name] = digest
    return pins


def kafka_jars(cache: Path | None = None, fetches: Iterable[Fetch] | None = None) -> list[Path]:
    """The broker's jars in class path order, each checked against its pin.

    cache: folder to keep them in, default `cache_folder()`. fetches: ways to get missing ones,
    tried in turn until every jar is right; default: jgo with the user's Maven repository, then jgo
    with an empty one (so a jar damaged in the former is fetched anew).
    Raises EmbeddedError naming the coordinates, each fault, and how to do without.
    """
    pins = read_pins()
    folder = (cache or cache_folder()) / f"kafka-{KAFKA_VERSION}"
    faults: list[str] = []
    if wrong := _wrong(folder, pins):
        try:
            with _only_one(folder):
                ways = FETCHES if fetches is None else fetches
                wrong = _fetch_missing(folder, pins, ways, faults)
        except OSError as error:
            faults.append(f"{type(error).__name__}: {error}")
    if wrong:
        raise EmbeddedError(
            f"the broker's jars can't be had: {len(wrong)} of {len(pins)} of {COORDINATES} are "
            f"missing or differ from their pinned SHA-256 ({'; '.join(faults) or 'not fetched'}). "
            f"Check the network and proxy settings, or copy {folder} from a machine that has it, "
            "or use a broker of your own: --kafka HOST:PORT"
        )
    return [folder / name for name in pins]


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Wait until no other process fetches into this folder; the kernel frees a dead one's lock."""
    folder.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch_missing(
    folder: Path, pins: Mapping[str, str], fetches: Iterable[Fetch], faults: list[str]
) -> list[str]:
    """Try each way in turn until every jar is right; returns the names of those that are not."""
    wrong = _wrong(folder, pins)
    for fetch in fetches:
        if not wrong:
            break
        try:
            _bring(folder, wrong, pins, fetch, faults)
        except (OSError, RuntimeError, ValueError, AssertionError) as error:
            # What jgo raises for no network, a missing artifact, a bad answer, and where another
            # program fetches into the same Maven repository.
            faults.append(f"{type(error).__name__}: {error}")
        wrong = _wrong(folder, pins)
    return wrong


def _wrong(folder: Path, pins: Mapping[str, str]) -> list[str]:
    """Names of the jars that are missing or damaged."""
    return [name for name, digest in pins.items() if _sha256(folder / name) != digest]


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def _bring(
    folder: Path, wrong: list[str], pins: Mapping[str, str], fetch: Fetch, faults: list[str]
) -> None:
    """Fetch once and move what is right into `folder`; a reader never sees half a jar."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="fetch-") as scratch:
        found = {path.name: path for path in fetch(Path(scratch))}
        for name in wrong:
            if name not in found:
                faults.append(f"{name} was not delivered")
                continue
            copy = Path(scratch) / f"{name}.part"
            shutil.copyfile(found[name], copy)  # a copy: a hard link would share later damage
            if _sha256(copy) == pins[name]:
                copy.replace(folder / name)
            else:
                faults.append(f"{found[name]} has another SHA-256")


def _with_jgo(scratch: Path) -> Iterable[Path]:
    """Through the user's Maven repository, which may have them already."""
    import jgo  # here: with its HTTP library it takes as long to import as all of ours

    # `all_jars`: `classpath` holds only 2 of them (the rest are meant for the module path).
    return list(jgo.build(COORDINATES, cache_dir=scratch / "jgo").all_jars)


def _with_jgo_afresh(scratch: Path) -> Iterable[Path]:
    """Through a repository of our own that starts empty."""
    from jgo.env import EnvironmentBuilder  # here: as above
    from jgo.maven import MavenContext

    context = MavenContext(repo_cache=scratch / "maven")
    builder = EnvironmentBuilder(context=context, cache_dir=scratch / "jgo")
    return list(builder.from_endpoint(COORDINATES).all_jars)


FETCHES: tuple[Fetch, ...] = (_with_jgo, _with_jgo_afresh)
