"""Hostile input: a tenth of the log malformed, and floods of it.

What is refused says the oracle's judge, by the documents alone; the worker's dead letters must be
exactly that, and the rest must be in the profiles.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import xxhash
from aiokafka.partitioner import murmur2

from agents.chaos.bed import Bed
from agents.chaos.hostile import (
    HUGE,
    HUGE_BYTES,
    LISTED,
    OTHER,
    Event,
    Message,
    drawn,
    huge_message,
)
from agents.chaos.judge import Judge
from agents.chaos.scenario import Plan, Report, Scenario
from agents.chaos.verifier import Expected, messages_of, reaches_end, verify
from agents.chaos.watcher import Watcher
from agents.chaos.worker_process import WorkerProcess, until
from agents.settings import Settings
from agents.simulate.shop import Shop, ShopConfig
from streams.bulk import BulkProducer
from streams.dead_letters import MAX_VALUE_BYTES, read_info
from streams.partitioner import partition_of
from streams.topics import ensure_topics

N_MESSAGES = 1_000_000
FIRST_PART = 0.2
"""Of the messages, after which the memory is measured the first time."""

N_HUGE = 20
TOPIC_BYTES = 10 * 1024 * 1024
MEMORY_FACTOR = 1.05
SEEMING_SHARE = 0.03
"""Of messages that only look malformed: they must be folded."""

MEASURED_SHARE = 0.5
"""Of the full size, below which memory says nothing: caches are still filling."""

PREFIX = "hostile"


# A tenth malformed ----------------------------------------------------------------------------


class HostileLoad:
    """A shop's stream in which every tenth message is refused, and others only look it.

    kinds: how many by what the judge says. made: of each message that was made to be refused, what
    it is, by `mark_of`. huge: so many of megabytes, spread evenly.
    """

    def __init__(self, settings: Settings, draw: random.Random, seed: int, n: int, huge: int):
        self.kinds: Counter[str] = Counter()
        self.made: dict[int, str] = {}
        self.n_sent = 0
        self._topic = settings.topics().events.name
        self._settings = settings
        self._draw = draw
        self._judge = Judge()
        self._huge_at = {int((number + 0.5) / huge * n) for number in range(huge)}
        shop = Shop(ShopConfig(n_users=5_000, n_items=2_000, seed=seed, repeat=0.01))
        self._stream = (
            (key, value)
            for chunk in shop.stream()
            for key, value in zip(chunk.keys, chunk.values, strict=True)
        )

    async def send(self, upto: int) -> None:
        """Go on until so many messages are sent and acknowledged. Raises BrokerAway."""
        producer = BulkProducer(self._settings.kafka, "chaos-hostile")
        await producer.start()
        try:
            while self.n_sent < upto:
                key, value = next(self._stream)
                message = self._hostile(self.n_sent, value)
                if message is None:
                    await producer.put(self._topic, key, value)
                else:
                    place = self._place(message)
                    await producer.put_at(self._topic, place, *message)
                self.n_sent += 1
                if self.n_sent % 500 == 0:
                    await asyncio.sleep(0)
            await producer.flush()
        finally:
            await producer.stop()

    def _hostile(self, number: int, value: bytes) -> Message | None:
        """What goes in place of a good message; None: the good one itself."""
        if number in self._huge_at:
            self.kinds[HUGE] += 1
            message = huge_message(self._draw, json.loads(value))
            self.made[mark_of(message.key, message.value)] = HUGE
            return message
        if number % 10 == 0:
            return self._drawn(json.loads(value), refused=True)
        if self._draw.random() < SEEMING_SHARE:
            return self._drawn(json.loads(value), refused=False)
        return None

    def _drawn(self, event: Event, *, refused: bool) -> Message:
        while True:
            kind, message = drawn(self._draw, event)
            why = self._judge.why_not(message.value, message.key, message.headers)
            if (why is not None) == refused:
                self.kinds["malformed" if refused else "malformed by its looks only"] += 1
                if refused:
                    self.made.setdefault(mark_of(message.key, message.value), kind)
                return message

    def _place(self, message: Message) -> int:
        partitions = self._settings.partitions
        if message.key is None:
            return self._draw.randrange(partitions)
        return int((murmur2(message.key) & 0x7FFFFFFF) % partitions)  # it may be no UTF-8


def mark_of(key: bytes | None, value: bytes | None) -> int:
    """Of a message's content, to find it again in the log.

    >>> mark_of(None, b"x") == mark_of(b"", b"x")
    False
    """
    return xxhash.xxh3_64_intdigest(repr((key, value)).encode())


async def _malformed(bed: Bed, draw: random.Random, report: Report, plan: Plan) -> None:
    settings = bed.settings(topic_prefix=PREFIX)
    topics = settings.topics()
    large = replace(topics.events, max_message_bytes=TOPIC_BYTES)
    await ensure_topics(bed.kafka, [large])  # the rest is the worker's
    n = plan.scaled(N_MESSAGES, 5_000)
    n_huge = plan.scaled(N_HUGE)
    load = HostileLoad(settings, draw, plan.seed, n, n_huge)
    report.note("one message in ten is refused: below flood_share (0.5), so no partition stops")
    async with Watcher(bed) as watcher, bed.worker("w0", topic_prefix=PREFIX) as worker:
        await worker.ready()
        await load.send(int(n * FIRST_PART))
        await reaches_end(settings, report)
        first = await _memory(worker)
        await load.send(n)
        await reaches_end(settings, report)
        last = await _memory(worker)
        expected = await verify(bed, report, watcher, settings=settings)
        report.check(worker.alive(), "the worker is alive", worker.log_tail()[-500:])
        status, document = await worker.readyz()
        report.check(status == 200, "the worker is ready", str(document)[:500])
    for kind, count in load.kinds.items():
        report.figure(kind, count, "messages")
    n_refused = len(expected.dead_letters)
    report.figure("refused", n_refused, "messages")
    bad = load.kinds["malformed"] + load.kinds[HUGE]
    report.check(
        n_refused == bad, "the oracle refuses what was made to be refused", f"{n_refused}, {bad}"
    )
    n_in_log = sum(oracle.n_messages for oracle in expected.partitions)
    report.check(
        n_in_log == load.n_sent, "the log holds every message that was acknowledged, once",
        f"{load.n_sent} acknowledged, {n_in_log} in the log",
    )  # fmt: skip
    refused = await _check_letters(settings, expected, report, n_huge, load.made)
    _check_kinds(refused, report)
    report.figure("resident after a fifth", round(first / 2**20, 1), "MiB")
    report.figure("resident at the end", round(last / 2**20, 1), "MiB")
    report.figure("resident, factor", round(last / first, 3))
    if plan.share >= MEASURED_SHARE:
        report.check(
            last <= MEMORY_FACTOR * first,
            f"resident memory at the end is at most {MEMORY_FACTOR} x that after a fifth",
            f"{last / first:.3f}",
        )


async def _memory(worker: WorkerProcess) -> int:
    """Bytes, the least of three seconds: what comes and goes with a batch is not meant."""
    found = []
    for _ in range(6):
        await asyncio.sleep(0.5)
        found.append(worker.rss_bytes())
    return min(found)


async def _check_letters(
    settings: Settings,
    expected: Expected,
    report: Report,
    n_huge: int,
    made: Mapping[int, str],
) -> Counter[str]:
    """Every dead letter holds its original byte for byte, or its position and SHA-256.

    Returns what the messages were, each counted once, that became dead letters.
    """
    refused = expected.dead_letters
    kinds: dict[tuple[int, int], str] = {}
    letters: set[tuple[int, int]] = set()
    originals: dict[tuple[int, int], tuple[bytes | None, bytes, int]] = {}
    async for records in messages_of(settings, settings.topics().events.name):
        for record in records:
            if (record.partition, record.offset) in refused:
                value = record.value or b""
                digest = hashlib.sha256(value).digest()
                originals[record.partition, record.offset] = (record.key, digest, len(value))
                mark = mark_of(record.key, record.value)
                kinds[record.partition, record.offset] = made.get(mark, "that nobody made")
    wrong, large = [], 0
    async for records in messages_of(settings, settings.topics().dead_letters.name):
        for record in records:
            info = read_info(record.headers)
            if info is None or (info.partition, info.offset) not in originals:
                wrong.append(f"{record.partition}/{record.offset}: of no message")
                continue
            at = (info.partition, info.offset)
            letters.add(at)
            key, digest, n_bytes = originals[at]
            value = record.value or b""
            if n_bytes > MAX_VALUE_BYTES:
                large += n_bytes > HUGE_BYTES // 2
                wanted = {"partition": at[0], "offset": at[1], "sha256": digest.hex()}
                same = json.loads(value) == wanted | {"bytes": n_bytes}
            else:
                same = hashlib.sha256(value).digest() == digest
            if not same or record.key != key:
                wrong.append(f"{at[0]}/{at[1]}: another key or value")
    report.figure("dead letters of 8 MB, by their SHA-256", large)
    report.check(not wrong, "every dead letter is its message's", str(wrong[:3]))
    report.check(large == n_huge, "messages of 8 MB travel as position and SHA-256", str(large))
    return Counter(kinds[at] for at in letters)


def _check_kinds(refused: Mapping[str, int], report: Report) -> None:
    """Each kind that is listed was there and became a dead letter, and nothing that nobody made."""
    wanted = (*LISTED, HUGE)
    for kind in (*wanted, OTHER):
        report.figure(f"dead letters: {kind}", refused.get(kind, 0))
    missing = [kind for kind in wanted if not refused.get(kind)]
    report.check(
        not missing, "of each kind of malformed message some are refused", ", ".join(missing)
    )
    strange = {kind: n for kind, n in refused.items() if kind not in (*wanted, OTHER)}
    report.check(not strange, "no message is refused that was not made to be", str(strange))


# A flood --------------------------------------------------------------------------------------

N_BEFORE, N_FLOOD = 20_000, 1_500
FLOODED, PUZZLED = 1, 2
"""Partitions: one of bad messages, one of types that the worker does not know."""


async def _flood(bed: Bed, draw: random.Random, report: Report, plan: Plan) -> None:
    """A partition stops before it commits a flood, also after a restart; the remedy lets it go."""
    settings = bed.settings()
    users = _users(settings)
    producer = BulkProducer(bed.kafka, "chaos-flood")
    await producer.start()
    topic = settings.topics().events.name
    number = 0

    async def send(partition: int, form: str, n: int) -> None:
        nonlocal number
        for _ in range(n):
            user = draw.choice(users[partition])
            value = form % (user, draw.randrange(500), 1_750_000_000_000 + number, number)
            await producer.put(topic, user.encode(), value.encode())
            number += 1
        await producer.flush()

    good = '{"type":"click","user_id":"%s","item_id":"i%d","ts":%d,"event_id":"%d"}'
    bad = '{"type":"click","user_id":"%s","item_id":"i%d","ts":%d.5,"event_id":"%d"}'
    unknown = good.replace("click", "wave")
    n_before = plan.scaled(N_BEFORE, 2_000) // settings.partitions
    try:
        for partition in range(settings.partitions):
            await send(partition, good, n_before)
        async with Watcher(bed) as watcher:
            async with bed.worker("w0") as worker:
                await worker.ready()
                await reaches_end(settings, report)
                await send(FLOODED, bad, 400)  # in dribs and drabs: these are committed
                await reaches_end(settings, report)
                first_bad = n_before
                await send(PUZZLED, unknown, N_FLOOD)
                await send(FLOODED, bad, N_FLOOD)
                await _stops(worker, report, first_bad, "the partition stops")
                for partition in range(settings.partitions):
                    await send(partition, good, 100)
                await _others_reach(watcher, report, n_before, unknown_at=PUZZLED)
                stood = watcher.position(FLOODED)
            report.check(
                n_before + 400 <= stood <= n_before + 500,
                "the batch in which the flood is seen is not committed",
                f"next_offset {stood}, flood from {first_bad} on, seen at {first_bad + 500}",
            )
            async with bed.worker("w0") as worker:
                await _stops(worker, report, first_bad, "it stops again after a restart")
            await watcher.sample()
            report.check(
                watcher.position(FLOODED) == stood,
                "the restart has committed nothing of the flood",
                f"{watcher.position(FLOODED)}, {stood} before",
            )
            async with bed.worker("w0", flood_stop=False) as worker:
                await worker.ready()
                await reaches_end(settings, report)
                await send(FLOODED, good, 1_000)
                await reaches_end(settings, report)
            async with bed.worker("w0") as worker:  # the rule holds again
                await worker.ready()
                await send(FLOODED, bad, 3)
                await send(FLOODED, good, 10)
                await verify(bed, report, watcher, settings=settings)
                report.check(
                    (await worker.readyz())[0] == 200, "with the remedy and after it all goes on"
                )
    finally:
        await producer.stop()


def _users(settings: Settings) -> dict[int, list[str]]:
    """Twenty users of each partition."""
    found: dict[int, list[str]] = {partition: [] for partition in range(settings.partitions)}
    number = 0
    while min(map(len, found.values())) < 20:
        found[partition_of(f"u{number}", settings.partitions)].append(f"u{number}")
        number += 1
    return found


async def _stops(worker: WorkerProcess, report: Report, first_bad: int, sentence: str) -> None:
    """The worker says of the flooded partition, and of no other, that it stopped, and why."""
    causes: list[dict[str, str]] = []

    async def says_so() -> bool:
        nonlocal causes
        status, document = await worker.readyz()
        causes = [
            c for c in document.get("causes", []) if str(c.get("part")).startswith("partition")
        ]
        return status == 503 and bool(causes)

    await until(says_so, sentence, 120.0)
    text = "; ".join(f"{cause['part']}: {cause['cause']}" for cause in causes)
    report.check(
        [c["part"] for c in causes] == [f"partition {FLOODED}"], f"{sentence}, alone", text
    )
    report.check(
        f"from offset {first_bad} on" in text, f"{sentence}, naming the first bad offset", text
    )
    report.check("flood_stop=false" in text, f"{sentence}, naming the remedy", text)


async def _others_reach(
    watcher: Watcher, report: Report, n_before: int, *, unknown_at: int
) -> None:
    def there() -> bool:
        return all(
            watcher.position(p) >= n_before + 100 + (N_FLOOD if p == unknown_at else 0)
            for p in range(watcher.partitions)
            if p != FLOODED
        )

    await until(there, "the other partitions go on, whatever types they do not know", 60.0)
    report.check(there(), "the other partitions go on, whatever types they do not know")


SCENARIOS = (
    Scenario(
        name="hostile",
        title="1,000,000 messages, one in ten malformed, 20 of them 8 MB",
        promise=(
            "dead letters are exactly what the oracle refuses, the rest is folded; resident memory "
            "at the end at most 1.05 x that after 200,000"
        ),
        default_minutes=8.0,
        run=_malformed,
        timed=False,
    ),
    Scenario(
        name="flood",
        title="a partition's messages turn bad",
        promise=(
            "that partition alone stops before it commits the flood, names its first offset and "
            "the remedy, stops again after a restart, and goes on with the remedy"
        ),
        default_minutes=2.0,
        run=_flood,
        timed=False,
    ),
)
