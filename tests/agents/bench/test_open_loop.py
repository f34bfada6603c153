"""The load keeps its schedule and remembers what it sent for probe users."""

from __future__ import annotations

from aiokafka import AIOKafkaConsumer

from agents.bench.load import Load
from agents.bench.open_loop import LoadOrder, send
from streams.topics import TopicSet


async def test_each_probe_is_one_event_in_the_log_under_its_offset(kafka: str, topics: TopicSet):
    order = LoadOrder(
        kafka=kafka,
        topic=topics.events.name,
        rate_per_s=500.0,
        warm_s=0.2,
        seconds=0.5,
        rounds=2,
        seed=2,
        probe_share=0.2,
        result="",
    )
    result = await send(order)
    assert result.n_sent == 600
    chosen = Load(seed=2, first_ms=0).probes(0.2)
    expected = [
        f"u{u}" for n, u, _ in Load(seed=2, first_ms=0).draws(600) if n >= 100 and u in chosen
    ]
    assert [probe.user_id for probe in result.probes] == expected
    assert {probe.round for probe in result.probes} == {0, 1}
    consumer = AIOKafkaConsumer(
        topics.events.name, bootstrap_servers=kafka, auto_offset_reset="earliest"
    )
    await consumer.start()
    log: dict[tuple[str, int], int] = {}
    try:
        while len(log) < 600:
            for records in (await consumer.getmany(timeout_ms=1_000)).values():
                for record in records:
                    log[record.key.decode(), record.offset] = record.timestamp
    finally:
        await consumer.stop()
    for probe in result.probes:
        assert log[probe.user_id, probe.offset] == probe.appended_ms
