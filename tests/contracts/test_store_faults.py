"""What a commit does when the store or the way to it fails: nothing by halves, nothing twice."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace

import pytest
import redis

from profiles.errors import Fenced, OutcomeUnknown, StoreAway, StoreFull, StoreWentBack
from profiles.store import Outcome, ProfileStore
from profiles.store_link import pack
from streams.embedded.store import StoreServer


class Waiting:
    """Listens to `commit_until_known`."""

    def __init__(self) -> None:
        self.errors: list[StoreAway] = []
        self.heard = asyncio.Event()
        self.give_up = asyncio.Event()

    def on_away(self, error: StoreAway) -> None:
        self.errors.append(error)
        self.heard.set()


def servers_of(store: ProfileStore, url: str) -> list[redis.Redis]:
    """A plain client to every node."""
    nodes = [node for node in store._topology.masters if node[0]]
    if not nodes:
        return [redis.Redis.from_url(url)]
    return [redis.Redis(host=host, port=port) for host, port in nodes]


def kill_connections(store: ProfileStore, url: str) -> None:
    """CLIENT KILL of every client but the one that says so."""
    for server in servers_of(store, url):
        with contextlib.closing(server):
            server.client_kill_filter(_type="normal", skipme=True)


async def test_a_connection_killed_before_exec_leaves_nothing(url, connect, owner, batch):
    async def kill(step: str) -> None:
        if step == "sending" and armed:
            armed.clear()
            await asyncio.to_thread(kill_connections, store, url)

    armed: list[bool] = []
    store = await connect(url, step=kill)
    claim = (await store.acquire(2, owner())).claim
    await store.commit(claim, batch(0, 5, ann=b"A1"))
    armed.append(True)
    with pytest.raises(OutcomeUnknown, match="partition 2"):
        await store.commit(claim, batch(5, 6, ann=b"A2"))
    assert await store.outcome(claim, 5, 6) is Outcome.NOT_APPLIED
    assert await store.read_many(2, ["ann"]) == [b"A1"]
    await store.commit(claim, batch(5, 6, ann=b"A2"))
    assert await store.read_many(2, ["ann"]) == [b"A2"]


async def test_an_idle_connection_that_broke_is_replaced(url, connect, owner, batch):
    store = await connect(url)
    claim = (await store.acquire(2, owner())).claim
    await store.commit(claim, batch(0, 5, ann=b"A1"))
    assert await store.read_many(2, ["ann"]) == [b"A1"]
    await asyncio.to_thread(kill_connections, store, url)
    waiting = Waiting()
    await store.commit_until_known(claim, batch(5, 6, ann=b"A2"), waiting.on_away, waiting.give_up)
    while True:  # the end of a killed connection may arrive a moment after the next question
        with contextlib.suppress(StoreAway):
            assert await store.read_many(2, ["ann"]) == [b"A2"]
            break


async def test_a_request_lost_between_multi_and_exec_is_sent_again(
    standalone, connect, owner, batch, proxy_to
):
    async with proxy_to(standalone.port) as proxy:
        store = await connect(proxy.url)
        claim = (await store.acquire(0, owner())).claim
        proxy.cut = "request"
        with pytest.raises(OutcomeUnknown):
            await store.commit(claim, batch(0, 5, ann=b"A1"))
        assert await store.read_many(0, ["ann"]) == [None]
        assert await store.outcome(claim, 0, 5) is Outcome.NOT_APPLIED

        proxy.cut = "request"
        waiting = Waiting()
        await store.commit_until_known(
            claim, batch(0, 5, ann=b"A1"), waiting.on_away, waiting.give_up
        )
        assert [type(error) for error in waiting.errors] == [OutcomeUnknown]
        assert await store.read_many(0, ["ann"]) == [b"A1"]
        await store.close()


async def test_a_lost_answer_is_found_out(standalone, connect, owner, batch, proxy_to):
    async with proxy_to(standalone.port) as proxy:
        store = await connect(proxy.url)
        claim = (await store.acquire(0, owner())).claim
        proxy.cut = "answer"
        with pytest.raises(OutcomeUnknown):
            await store.commit(claim, batch(0, 5, ann=b"A1"))
        assert await store.outcome(claim, 0, 5) is Outcome.APPLIED

        proxy.cut = "answer"
        waiting = Waiting()
        await store.commit_until_known(
            claim, batch(5, 8, ann=b"A2"), waiting.on_away, waiting.give_up
        )
        assert [type(error) for error in waiting.errors] == [OutcomeUnknown]
        assert await store.read_many(0, ["ann"]) == [b"A2"]
        await store.commit(claim, batch(8, 9, ann=b"A3"))
        await store.close()


async def test_a_lost_answer_and_a_successor_end_fenced(
    standalone, connect, owner, batch, proxy_to
):
    async with proxy_to(standalone.port) as proxy:
        store, successor = await connect(proxy.url), await connect(standalone.url)
        claim = (await store.acquire(0, owner())).claim
        proxy.cut = "answer"
        with pytest.raises(OutcomeUnknown):
            await store.commit(claim, batch(0, 5, ann=b"A1"))
        assert (await successor.acquire(0, owner())).next_offset == 5
        assert await store.outcome(claim, 0, 5) is Outcome.FENCED
        waiting = Waiting()
        with pytest.raises(Fenced):
            await store.commit_until_known(
                claim, batch(0, 5, ann=b"A1"), waiting.on_away, waiting.give_up
            )
        await store.close()


async def test_an_exec_that_arrives_late_writes_nothing_over_its_repeat(
    standalone, connect, owner, batch, proxy_to
):
    """The first EXEC is under way when its sender gives up; it is delivered after the repeat."""
    async with proxy_to(standalone.port) as proxy:
        store = await connect(proxy.url, timeout_s=0.3)
        claim = (await store.acquire(0, owner())).claim
        proxy.cut = "hold"
        with pytest.raises(OutcomeUnknown, match="gave no answer"):
            await store.commit(claim, batch(0, 5, ann=b"late"))
        await store.commit(claim, batch(0, 5, ann=b"A1"))
        await store.commit(claim, batch(5, 6, bob=b"B1"))
        proxy.release.set()
        await proxy.delivered.wait()
        await store.commit(claim, batch(6, 7))
        assert await store.read_many(0, ["ann", "bob"]) == [b"A1", b"B1"]
        await store.close()


async def test_a_late_exec_is_refused_after_an_acquire(standalone, connect, owner, batch, proxy_to):
    async with proxy_to(standalone.port) as proxy:
        store = await connect(proxy.url, timeout_s=0.3)
        claim = (await store.acquire(0, owner())).claim
        proxy.cut = "hold"
        with pytest.raises(OutcomeUnknown):
            await store.commit(claim, batch(0, 5, ann=b"late"))
        again = (await store.acquire(0, owner())).claim
        proxy.release.set()
        await proxy.delivered.wait()
        await store.commit(again, batch(0, 3, bob=b"B1"))
        assert await store.read_many(0, ["ann", "bob"]) == [None, b"B1"]
        await store.close()


async def test_a_cancelled_commit_ends_first(standalone, connect, owner, batch, proxy_to):
    async with proxy_to(standalone.port) as proxy:
        store = await connect(proxy.url)
        claim = (await store.acquire(0, owner())).claim
        proxy.cut = "hold"
        committing = asyncio.create_task(store.commit(claim, batch(0, 5, ann=b"A1")))
        await proxy.reached.wait()
        for _ in range(3):
            committing.cancel()
            await asyncio.sleep(0)
        assert not committing.done()
        proxy.release.set()
        with pytest.raises(asyncio.CancelledError):
            await committing
        assert await store.read_many(0, ["ann"]) == [b"A1"]
        # The same connection goes on, and its answers belong to its questions.
        await store.commit(claim, batch(5, 6, ann=b"A2"))
        assert await store.outcome(claim, 5, 6) is Outcome.APPLIED
        await store.close()


async def test_cancelled_reads_give_no_answer_to_other_users(url, connect, owner, batch):
    store = await connect(url)
    claim = (await store.acquire(0, owner())).claim
    users = {f"u{i}": f"record of u{i}".encode() for i in range(50)}
    await store.commit(claim, batch(0, 5, **users))
    for n_steps in range(12):  # cancelled at every point of the way
        reading = asyncio.create_task(store.read_many(0, ["u1"]))
        for _ in range(n_steps):
            await asyncio.sleep(0)
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            assert await reading == [users["u1"]]
        assert await store.read_many(0, ["u2"]) == [users["u2"]]
    found = await asyncio.gather(*(store.read_many(0, [user]) for user in users))
    assert found == [[record] for record in users.values()]


async def test_a_store_that_comes_back_is_waited_for(
    own_server: StoreServer, connect, owner, batch
):
    store = await connect(own_server.url)
    claim = (await store.acquire(0, owner())).claim
    await store.commit(claim, batch(0, 5, ann=b"A1"))
    # While an fsync is under way the server may hold its own file back for up to two seconds.
    await store._pool.ask_slot(0, [pack("WAITAOF", 1, 0, 5_000)], 1, "waiting for the disk")
    own_server.process.kill()
    waiting = Waiting()
    committing = asyncio.create_task(
        store.commit_until_known(claim, batch(5, 6, ann=b"A2"), waiting.on_away, waiting.give_up)
    )
    await waiting.heard.wait()
    with pytest.raises(StoreAway):
        await store.read_many(0, ["ann"])
    await asyncio.to_thread(own_server.start)
    await committing
    assert await store.read_many(0, ["ann"]) == [b"A2"]


async def test_a_frozen_store_is_away_and_its_commit_not_lost(
    own_server: StoreServer, connect, owner, batch
):
    store = await connect(own_server.url, timeout_s=0.2)
    claim = (await store.acquire(0, owner())).claim
    own_server.process.pause()
    waiting = Waiting()
    committing = asyncio.create_task(
        store.commit_until_known(claim, batch(0, 5, ann=b"A1"), waiting.on_away, waiting.give_up)
    )
    await waiting.heard.wait()
    own_server.process.resume()
    await committing
    assert await store.read_many(0, ["ann"]) == [b"A1"]
    await store.commit(claim, batch(5, 6, ann=b"A2"))


async def test_waiting_can_be_given_up(own_server: StoreServer, connect, owner, batch):
    store = await connect(own_server.url)
    claim = (await store.acquire(0, owner())).claim
    own_server.process.kill()
    waiting = Waiting()
    committing = asyncio.create_task(
        store.commit_until_known(claim, batch(0, 5), waiting.on_away, waiting.give_up)
    )
    await waiting.heard.wait()
    waiting.give_up.set()
    with pytest.raises(StoreAway):
        await committing


@pytest.mark.parametrize("n_failures", [1, 2, 3])
@pytest.mark.parametrize("state", ["dead", "frozen", "full"])
async def test_giving_up_takes_one_round_trip_at_most(
    own_server: StoreServer, connect, owner, batch, state, n_failures
):
    """Whatever the store is doing, and whether an attempt or a pause is under way."""
    timeout_s = 0.4
    store = await connect(own_server.url, timeout_s=timeout_s)
    claim = (await store.acquire(0, owner())).claim
    if state == "dead":
        own_server.process.kill()
    elif state == "frozen":
        own_server.process.pause()
    else:
        with redis.Redis.from_url(own_server.url) as plain:
            plain.config_set("maxmemory", 1)
    waiting = Waiting()
    committing = asyncio.create_task(
        store.commit_until_known(claim, batch(0, 5), waiting.on_away, waiting.give_up)
    )
    for _ in range(n_failures):
        await waiting.heard.wait()
        waiting.heard.clear()
    await asyncio.sleep(0.1 if n_failures == 1 else 0)  # into the next attempt, or into the pause
    began = time.monotonic()
    waiting.give_up.set()
    with pytest.raises(OutcomeUnknown if state == "frozen" else StoreAway):
        await committing
    took_s = time.monotonic() - began
    if state == "frozen":
        own_server.process.resume()
    assert took_s < (timeout_s if state == "frozen" else 0) + 0.5


async def test_an_emptied_store_went_back(own_server: StoreServer, connect, owner, batch):
    store = await connect(own_server.url)
    claim = (await store.acquire(0, owner())).claim
    await store.commit(claim, batch(0, 5, ann=b"A1"))
    with redis.Redis.from_url(own_server.url) as plain:
        plain.flushall()
    with pytest.raises(StoreWentBack, match="epoch 0, next offset 0 in the store"):
        await store.commit(claim, batch(5, 6, ann=b"A2"))
    acquired = await store.acquire(0, owner())
    assert (acquired.claim.epoch, acquired.next_offset) == (1, 0)
    with pytest.raises(Fenced):  # the epoch is given out again; the owner is not
        await store.commit(claim, batch(0, 5, ann=b"A1"))


async def test_a_first_commit_after_an_emptied_store_is_refused(
    own_server: StoreServer, connect, owner, batch
):
    """At offset 0 the position alone would fit: the lost acquire is what tells."""
    store = await connect(own_server.url)
    claim = (await store.acquire(0, owner())).claim
    with redis.Redis.from_url(own_server.url) as plain:
        plain.flushall()
    with pytest.raises(StoreWentBack):
        await store.commit(claim, batch(0, 5, ann=b"A1"))


async def test_a_store_without_its_last_second_went_back(
    own_server: StoreServer, connect, owner, batch
):
    store = await connect(own_server.url)
    claim = (await store.acquire(0, owner())).claim
    await store.commit(claim, batch(0, 5, ann=b"A1"))
    (log,) = own_server.folder.glob("appendonlydir/*.incr.aof")
    kept = log.stat().st_size
    await store.commit(claim, batch(5, 6, ann=b"A2"))
    assert log.stat().st_size > kept
    own_server.process.kill()
    with log.open("r+b") as file:
        file.truncate(kept)
    await asyncio.to_thread(own_server.start)
    waiting = Waiting()
    with pytest.raises(StoreWentBack, match=r"next offset 5 in the store.*next offset 6 here"):
        await store.commit_until_known(
            claim, batch(6, 7, ann=b"A3"), waiting.on_away, waiting.give_up
        )
    acquired = await store.acquire(0, owner())
    assert acquired.next_offset == 5
    assert await store.read_many(0, ["ann"]) == [b"A1"]
    await store.commit(acquired.claim, batch(5, 7, ann=b"A3"))


async def test_a_full_store_applies_nothing_by_halves(
    own_server: StoreServer, connect, owner, batch
):
    store = await connect(own_server.url)
    claim = (await store.acquire(0, owner())).claim
    await store.commit(claim, batch(0, 5, ann=b"A1"))
    with redis.Redis.from_url(own_server.url) as plain:
        used = plain.info("memory")["used_memory"]
        large = {f"u{i}": b"x" * 1_000_000 for i in range(8)}
        # Full from the start, and full somewhere inside the transaction.
        for limit in (used // 2, used + 3_000_000):
            plain.config_set("maxmemory", limit)
            with pytest.raises(StoreFull, match="give it memory"):
                await store.commit(claim, batch(5, 6, ann=b"A2", **large))
            assert await store.read_many(0, ["ann", "u0"]) == [b"A1", None]
            assert await store.outcome(claim, 5, 6) is Outcome.NOT_APPLIED
        waiting = Waiting()
        committing = asyncio.create_task(
            store.commit_until_known(
                claim, batch(5, 6, ann=b"A2", **large), waiting.on_away, waiting.give_up
            )
        )
        await waiting.heard.wait()
        assert isinstance(waiting.errors[0], StoreFull)
        plain.config_set("maxmemory", 0)
        await committing
    assert await store.read_many(0, ["ann", "u0"]) == [b"A2", b"x" * 1_000_000]


async def test_an_error_between_the_steps_leaves_a_usable_store(url, connect, owner, batch):
    """Whatever ends a commit inside this process, the next one decides by the checkpoint."""

    class Stop(Exception):
        pass

    async def stop(step: str) -> None:
        if step == wanted:
            raise Stop

    wanted = ""
    store = await connect(url, step=stop)
    claim = (await store.acquire(0, owner())).claim
    await store.outcome(claim, 0, 1)
    at = 0
    for step in ("watched", "sending", "answered") * 3:
        wanted = step
        if step == "watched":
            await store.release(0)
        with pytest.raises(Stop):
            await store.commit(claim, batch(at, at + 3, ann=b"%d" % at))
        wanted = ""
        expected = Outcome.APPLIED if step == "answered" else Outcome.NOT_APPLIED
        assert await store.outcome(claim, at, at + 3) is expected
        await store.commit(claim, batch(at, at + 3, ann=b"%d" % at))
        assert await store.read_many(0, ["ann"]) == [b"%d" % at]
        at += 3


async def test_an_acquire_whose_answer_is_lost_is_repeated(
    standalone, connect, owner, batch, proxy_to
):
    async with proxy_to(standalone.port) as proxy:
        store = await connect(proxy.url)
        proxy.cut = "answer"
        with pytest.raises(StoreAway):
            await store.acquire(0, owner())
        acquired = await store.acquire(0, owner())
        assert acquired.claim.epoch == 2
        await store.commit(acquired.claim, replace(batch(0, 5), outbox=[]))
        await store.close()


async def test_a_store_that_is_not_there_is_away(connect):
    with pytest.raises(StoreAway, match=r"127.0.0.1:1 can't be reached"):
        await connect("redis://127.0.0.1:1/0")
