"""What a cluster says of itself and of the partitions of some topics, for `doctor`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from streams.topics import admin_client

_FETCH = 1
_SINCE = ((18, "4.1"), (17, "3.9"), (16, "3.7"), (15, "3.5"), (13, "3.1"), (12, "2.7"), (11, "2.3"))
"""Version of the fetch request -> the release that brought it: Kafka doesn't tell its own."""


@dataclass(frozen=True, slots=True)
class PartitionState:
    """leader: -1 for none. n_in_sync: replicas that have everything."""

    topic: str
    partition: int
    leader: int
    n_replicas: int
    n_in_sync: int


@dataclass(frozen=True, slots=True)
class ClusterState:
    """version: the release it is at least, None for one older than 2.3."""

    cluster_id: str
    n_brokers: int
    version: str | None
    partitions: list[PartitionState]


async def cluster_state(bootstrap: str, topics: Sequence[str]) -> ClusterState:
    """State of the cluster and of the topics that are there. Raises BrokerAway."""
    async with admin_client(bootstrap) as admin:
        cluster = await admin.describe_cluster()
        described = await admin.describe_topics(list(topics))
        # aiokafka keeps what each broker said at the handshake, and has no method that tells it.
        known = [conn._versions.get(_FETCH, (0, 0))[1] for conn in admin._client._conns.values()]
    fetch = min(known, default=0)
    return ClusterState(
        cluster_id=cluster["cluster_id"],
        n_brokers=len(cluster["brokers"]),
        version=next((release for least, release in _SINCE if fetch >= least), None),
        partitions=[
            PartitionState(
                topic["topic"],
                part["partition"],
                part["leader"],
                len(part["replicas"]),
                len(part["isr"]),
            )
            for topic in described
            if not topic["error_code"]
            for part in topic["partitions"]
        ],
    )
