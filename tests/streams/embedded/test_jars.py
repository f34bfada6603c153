"""The broker's jars: pinned, cached, repaired, and not missed without a word."""

import os
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path

import pytest

from streams.embedded import jars
from streams.errors import EmbeddedError


@pytest.fixture(scope="module")
def good() -> Path:
    """The real cache, filled."""
    return jars.kafka_jars()[0].parent


@pytest.fixture
def cache(good: Path, tmp_path: Path) -> Path:
    """A cache of our own with every jar in it."""
    folder = tmp_path / good.name
    folder.mkdir()
    for jar in good.iterdir():
        (folder / jar.name).symlink_to(jar)
    return tmp_path


def no_network(scratch: Path) -> Iterable[Path]:
    raise ConnectionError("the network is unreachable")


def test_a_full_cache_needs_no_network(cache: Path) -> None:
    assert len(jars.kafka_jars(cache, [no_network])) == len(jars.read_pins()) == 46


def test_a_damaged_jar_is_fetched_again(cache: Path, good: Path) -> None:
    victim = next((cache / good.name).iterdir())
    victim.unlink()
    victim.write_bytes(b"damaged")
    jars.kafka_jars(cache, [no_network, lambda scratch: good.iterdir()])
    assert victim.read_bytes() == (good / victim.name).read_bytes()


def test_of_two_that_miss_jars_one_fetches_and_the_other_waits(tmp_path: Path, good: Path) -> None:
    fetching, n_fetches = threading.Event(), 0

    def slow(scratch: Path) -> Iterable[Path]:
        nonlocal n_fetches
        n_fetches += 1
        fetching.set()
        with pytest.raises(FutureTimeoutError):  # the other is there, and has nothing yet
            other.result(timeout=0.3)
        return good.iterdir()

    with ThreadPoolExecutor(2) as pool:
        ready = threading.Event()
        other = pool.submit(
            lambda: (ready.set(), fetching.wait(), jars.kafka_jars(tmp_path, [slow]))[-1]
        )
        ready.wait()
        first = jars.kafka_jars(tmp_path, [slow])
        assert other.result(timeout=20) == first
    assert n_fetches == 1


def test_a_way_that_breaks_is_followed_by_the_next(tmp_path: Path, good: Path) -> None:
    def breaks(scratch: Path) -> Iterable[Path]:
        raise AssertionError  # jgo's, where another program wrote the same file meanwhile

    found = jars.kafka_jars(tmp_path, [breaks, lambda scratch: good.iterdir()])
    assert [jar.parent for jar in found] == [tmp_path / good.name] * len(jars.read_pins())


def test_a_jar_with_another_hash_is_never_handed_out(tmp_path: Path, good: Path) -> None:
    def forged(scratch: Path) -> Iterable[Path]:
        for name in jars.read_pins():
            (scratch / name).write_bytes(b"forged")
            yield scratch / name

    with pytest.raises(EmbeddedError, match="another SHA-256"):
        jars.kafka_jars(tmp_path, [forged])
    assert os.listdir(tmp_path / good.name) == []


def test_without_network_the_error_names_the_coordinates_and_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedError) as caught:
        jars.kafka_jars(tmp_path, [no_network])
    for part in ("org.apache.kafka:kafka_2.13:4.3.1", "network is unreachable", "--kafka"):
        assert part in str(caught.value)


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.delenv("FOLDSTREAM_CACHE", raising=False)
    assert jars.cache_folder() == Path("/x/foldstream")
    monkeypatch.setenv("FOLDSTREAM_CACHE", "/own")
    assert jars.cache_folder() == Path("/own")
