"""The embedded broker: failures explained, and what it promises to clients."""

from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import UnknownTopicOrPartitionError
from aiokafka.producer import AIOKafkaProducer

from streams.embedded.kafka import KafkaServer, answers_metadata, explain_failure, new_cluster_id
from streams.errors import EmbeddedError


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        ("version `GLIBC_2.38' not found", "C library is too old"),
        ("java.net.BindException: Address already in use", "start again"),
        ("java.io.IOException: No space left on device", "--data-dir"),
        ("what nobody foresaw", "what nobody foresaw"),
    ],
)
def test_a_failed_start_says_why(words: str, cause: str) -> None:
    assert cause in explain_failure("the broker", words)


def test_a_broker_that_cannot_start_shows_its_last_words(tmp_path: Path) -> None:
    jar = tmp_path / "empty.jar"
    jar.touch()
    server = KafkaServer(tmp_path / "kafka", ephemeral=True, jar_paths=[jar])
    with pytest.raises(EmbeddedError, match=r"kafka\.tools\.StorageTool"):
        server.start()
    assert not server.alive()


def test_a_cluster_id_is_22_characters_that_no_tool_takes_for_a_flag() -> None:
    for _ in range(1000):
        text = new_cluster_id()
        assert len(text) == 22
        assert not text.startswith("-")


def test_readiness_is_false_where_nothing_or_something_else_answers(redis_url: str) -> None:
    assert not answers_metadata("127.0.0.1", 1)
    port = int(redis_url.rsplit(":", 1)[1].split("/")[0])
    assert not answers_metadata("127.0.0.1", port, timeout_s=0.5)


async def test_a_misspelt_topic_is_not_created(kafka: str, generation: str) -> None:
    producer = AIOKafkaProducer(
        bootstrap_servers=kafka, request_timeout_ms=1500, metadata_max_age_ms=300
    )
    await producer.start()
    try:
        with pytest.raises(UnknownTopicOrPartitionError):
            await producer.send_and_wait(generation, b"lost")
    finally:
        await producer.stop()
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        assert generation not in await admin.list_topics()
    finally:
        await admin.close()
