"""The embedded store: the program found, the settings it must have, the cluster."""

from pathlib import Path

import pytest

from streams.embedded.store import StoreCluster, StoreServer, ask, find_program
from streams.errors import EmbeddedError


def program(folder: Path, name: str, body: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_a_program_for_a_newer_system_is_passed_over(tmp_path: Path) -> None:
    new = program(tmp_path, "new", "echo \"version 'GLIBC_2.99' not found\" >&2; exit 1")
    old = program(tmp_path, "old", "echo 'Redis server v=6.2.14 sha=0:0 bits=64'")
    assert find_program([tmp_path / "absent", new, old]) == (old, "redis 6.2.14")
    with pytest.raises(EmbeddedError, match=r"C library is too old.*--redis"):
        find_program([new])


def test_without_any_program_the_error_names_the_way_out() -> None:
    with pytest.raises(EmbeddedError, match=r"none found.*apt-get install.*--redis"):
        find_program([])


def test_keys_survive_a_kill_and_the_port_is_kept(tmp_path: Path) -> None:
    server = StoreServer(tmp_path / "store", ephemeral=False)
    server.start()
    try:
        assert ask(server.port, "SET", "key", "value") == "OK"
        port = server.port
        server.process.kill()
        assert ask(port, "PING") is None
        server.start()
        assert server.port == port
        assert ask(port, "GET", "key") == "value"
    finally:
        server.stop()


def test_the_store_refuses_rather_than_forgets(tmp_path: Path) -> None:
    server = StoreServer(tmp_path / "store", ephemeral=False)
    server.start()
    try:
        info = ask(server.port, "INFO", "everything") or ""
    finally:
        server.stop()
    assert "maxmemory_policy:noeviction\r" in info
    assert "aof_enabled:1\r" in info


def test_a_taken_port_is_named_with_the_way_out(stack_port: int, tmp_path: Path) -> None:
    server = StoreServer(tmp_path / "store", ephemeral=True, port=stack_port)
    with pytest.raises(EmbeddedError, match=rf"port {stack_port} .* is taken .*--redis-port"):
        server.start()


@pytest.fixture
def stack_port(redis_url: str) -> int:
    """A port that is surely taken: the session's store listens there."""
    return int(redis_url.rsplit(":", 1)[1].split("/")[0])


def test_a_cluster_owns_every_slot(store_cluster: StoreCluster) -> None:
    for node in store_cluster.nodes:
        info = ask(node.port, "CLUSTER", "INFO") or ""
        assert "cluster_state:ok\r" in info
        assert "cluster_slots_assigned:16384\r" in info
