"""The embedded stack: real servers that start, survive, and die when they should."""

from streams.embedded import store
from streams.embedded.stack import Stack, read_stack


def test_a_running_stack_says_where_it_is(stack: Stack) -> None:
    info = read_stack(stack.data_dir)
    assert info == stack.info
    assert info.kafka.startswith("127.0.0.1:")
    assert info.redis.startswith("redis://127.0.0.1:")


def test_a_cluster_has_all_slots(store_cluster: store.StoreCluster) -> None:
    assert "cluster_slots_assigned:16384" in (
        store.ask(store_cluster.nodes[0].port, "CLUSTER", "INFO") or ""
    )
