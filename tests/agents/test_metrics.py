"""Each figure of the worker has a name of its own here and in the registry."""

from __future__ import annotations

from prometheus_client.metrics import MetricWrapperBase

from agents.metrics import Metrics


def test_every_collector_is_reached_by_one_attribute() -> None:
    """One name given to two counters would count both in the second."""
    metrics = Metrics()
    registered = {
        collector
        for collector in metrics.registry._collector_to_names
        if isinstance(collector, MetricWrapperBase)
    }
    named = [value for value in vars(metrics).values() if isinstance(value, MetricWrapperBase)]
    assert len(named) == len(set(named))
    computed = {"foldstream_asyncio_tasks", "foldstream_connections"}  # by nobody's hand
    assert {collector._name for collector in registered - {*named}} == computed
