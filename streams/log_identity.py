"""Which log is this: so a checkpoint is never applied to another cluster's topic of that name."""

from __future__ import annotations

from dataclasses import dataclass

from aiokafka.errors import UnknownTopicOrPartitionError, for_code

from streams.errors import BrokerAway, NotAllowed
from streams.topics import TopicMissing, admin_client, is_refusal


@dataclass(frozen=True, slots=True)
class LogIdentity:
    """cluster_id: made when the cluster was formatted. n_partitions: of the topic."""

    cluster_id: str
    topic: str
    n_partitions: int


async def log_identity(bootstrap: str, topic: str) -> LogIdentity:
    """Identity of a topic's log. Raises BrokerAway, NotAllowed or TopicMissing."""
    async with admin_client(bootstrap) as admin:
        cluster = await admin.describe_cluster()
        found = (await admin.describe_topics([topic]))[0]
    error = for_code(found["error_code"])
    if error is UnknownTopicOrPartitionError:
        raise TopicMissing(f"topic {topic} does not exist at {bootstrap}")
    if is_refusal(found["error_code"]):
        raise NotAllowed(f"topic {topic}: the broker refuses this client; grant it DESCRIBE, READ")
    if found["error_code"]:
        raise BrokerAway(f"topic {topic} at {bootstrap}: {error.__name__}")
    return LogIdentity(cluster["cluster_id"], topic, len(found["partitions"]))
