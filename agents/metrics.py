"""Every metric with its type, unit and meaning; one registry for each application.

Labels are bounded: kinds, reason codes and partition numbers, never a user or an item.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

if TYPE_CHECKING:
    from agents.windows import Window

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000)


class Recent:
    """The values of the last minute, for a median and a tail that people watch.

    >>> now = iter(range(100)).__next__
    >>> recent = Recent(window_s=4, clock=now)
    >>> for value in (5.0, 1.0, 2.0, 3.0): recent.add(value)
    >>> recent.quantile(0.5)
    2.0
    """

    def __init__(
        self,
        window_s: float = 60.0,
        size: int = 4_096,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """size: values kept at most, the newest ones."""
        self._values: deque[tuple[float, float]] = deque(maxlen=size)
        self._window_s = window_s
        self._clock = clock

    def add(self, value: float) -> None:
        """Take one value in."""
        self._values.append((self._clock(), value))

    def quantile(self, q: float) -> float | None:
        """The q-quantile of the values of the window; None while there are none."""
        since = self._clock() - self._window_s
        while self._values and self._values[0][0] <= since:
            self._values.popleft()
        if not self._values:
            return None
        return float(np.quantile([value for _, value in self._values], q))


def n_tasks() -> int:
    """Tasks of the running event loop; 0 where none runs."""
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:
        return 0


def n_connections() -> int:
    """Sockets that this process holds open, listening ones included; 0 on systems without /proc."""
    n = 0
    with contextlib.suppress(FileNotFoundError):
        for number in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):  # the one of the listing itself
                n += os.readlink(f"/proc/self/fd/{number}").startswith("socket:")
    return n


class Metrics:
    """All metrics of one worker."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.folded = Counter(
            "foldstream_events_folded", "Events folded and committed.", ["kind"], registry=r
        )
        self.repeats = Counter(
            "foldstream_events_repeated", "Events dropped: folded before.", registry=r
        )
        self.dead_letters = Counter(
            "foldstream_dead_letters", "Messages set aside, by reason.", ["code"], registry=r
        )
        self.unreadable = Counter(
            "foldstream_messages_unreadable",
            "Messages of other topics than events that were passed over and kept nowhere else.",
            ["topic", "code"],  # the topic without its prefix
            registry=r,
        )
        self.learned = Counter(
            "foldstream_model_events_learned", "Events that moved item vectors.", registry=r
        )
        self.model_lost = Counter(
            "foldstream_model_events_lost",
            "Committed events whose item learning a crash lost.",
            registry=r,
        )
        self.model_relearned = Counter(
            "foldstream_model_events_relearned",
            "Events whose item learning happened twice.",
            registry=r,
        )
        self.clipped = Counter(
            "foldstream_model_steps_clipped", "Gradient steps that were cut.", registry=r
        )
        self.blend_skipped = Counter(
            "foldstream_model_blend_steps_skipped",
            "Steps of the blend's weights left out: one was not finite.",
            registry=r,
        )
        self.commits = Counter("foldstream_commits", "Atomic commits that succeeded.", registry=r)
        self.fenced = Counter(
            "foldstream_commits_fenced", "Commits refused: another worker owns it.", registry=r
        )
        self.went_back = Counter(
            "foldstream_store_rewinds", "Times the store was older than our commits.", registry=r
        )
        self.store_away = Counter(
            "foldstream_store_away", "Times the store gave no answer.", registry=r
        )
        self.commit_s = Histogram(
            "foldstream_commit_seconds", "One atomic commit.", buckets=SECONDS, registry=r
        )
        self.batch_events = Histogram(
            "foldstream_batch_events", "Events in one commit.", buckets=SIZES, registry=r
        )
        self.lag = Gauge(
            "foldstream_partition_lag", "Events appended, not committed.", ["partition"], registry=r
        )
        self.assigned = Gauge("foldstream_partitions_assigned", "Partitions held.", registry=r)
        self.rebalances = Counter(
            "foldstream_rebalances", "Times the group dealt its partitions anew.", registry=r
        )
        self.stopped = Gauge(
            "foldstream_partitions_stopped", "Partitions stopped by a fault.", registry=r
        )
        self.profiles_cached = Gauge(
            "foldstream_profiles_cached", "Profiles in memory.", registry=r
        )
        self.items = Gauge("foldstream_items", "Items that have a vector.", registry=r)
        self.catalogue_items = Gauge(
            "foldstream_catalogue_items", "Items in the catalogue.", registry=r
        )
        self.gap_offsets = Counter(
            "foldstream_gap_offsets",
            "Offsets that the log lost before they were folded, and a person accepted.",
            ["partition"],
            registry=r,
        )
        self.record_format = Gauge(
            "foldstream_record_format", "Format in which records are written.", registry=r
        )
        self.snapshots = Counter("foldstream_item_snapshots", "Item snapshots written.", registry=r)
        self.snapshot_time = Gauge(
            "foldstream_item_snapshot_timestamp_seconds",
            "When the last item snapshot was written.",
            registry=r,
        )
        self.snapshot_took_s = Gauge(
            "foldstream_item_snapshot_seconds",
            "How long the last item snapshot took until it was written.",
            registry=r,
        )
        self.swept = Counter(
            "foldstream_profiles_swept",
            "Profiles over by retention that were given a time to live.",
            registry=r,
        )
        self.sweep_looked = Counter(
            "foldstream_sweep_keys_looked", "Keys of the store the sweeper passed.", registry=r
        )
        self.sweep_time = Gauge(
            "foldstream_sweep_timestamp_seconds",
            "When the sweeper last ended a whole round.",
            registry=r,
        )
        self.deltas_sent_bytes = Counter(
            "foldstream_item_deltas_sent_bytes", "Of item deltas, as acknowledged.", registry=r
        )
        self.deltas_applied = Counter(
            "foldstream_item_deltas_applied", "Rows of others' item deltas added.", registry=r
        )
        self.deltas_missed = Counter(
            "foldstream_item_deltas_missed", "Messages of others that never came.", registry=r
        )
        self.deltas_pending = Gauge(
            "foldstream_item_deltas_pending", "Rows with learning not yet sent.", registry=r
        )
        self.delta_listeners = Gauge(
            "foldstream_item_deltas_listeners", "Other processes that add ours.", registry=r
        )
        self.delta_age_s = Gauge(
            "foldstream_item_deltas_age_seconds",
            "Of the newest item deltas of another worker.",
            ["worker"],
            registry=r,
        )
        self.recommendations = Counter(
            "foldstream_recommendations", "Lists emitted, by kind.", ["kind"], registry=r
        )
        self.overtaken = Counter(
            "foldstream_scoring_skipped", "Changes passed over for a newer one.", registry=r
        )
        self.requests_failed = Counter(
            "foldstream_requests_failed",
            "Requests answered with an error, or not at all.",
            registry=r,
        )
        self.profiles_unreadable = Counter(
            "foldstream_profiles_unreadable",
            "Changed profiles without a list: their records can't be read.",
            registry=r,
        )
        self.freshness_s = Histogram(
            "foldstream_freshness_seconds",
            "From an event's append to the list that knows it.",
            buckets=SECONDS,
            registry=r,
        )
        self.events_buffered = Gauge(
            "foldstream_events_buffered", "Events read ahead, all partitions.", registry=r
        )
        self.bytes_buffered = Gauge(
            "foldstream_bytes_buffered", "Memory that they take, in bytes.", registry=r
        )
        self.scorer_waiting = Gauge(
            "foldstream_scorer_waiting", "Users whose list is to be made.", registry=r
        )
        self.trials = Counter(
            "foldstream_trials", "Events ranked before they were learned, read.", registry=r
        )
        self.trial_breaks = Counter(
            "foldstream_trial_breaks", "Times a hit rate broke, by model.", ["model"], registry=r
        )
        self.trial_hit_rate = Gauge(
            "foldstream_trial_hit_rate", "HR@20 of the window.", ["model", "slice"], registry=r
        )
        self.trial_mrr = Gauge(
            "foldstream_trial_mrr", "MRR@20 of the window.", ["model", "slice"], registry=r
        )
        self.trial_ndcg = Gauge(
            "foldstream_trial_ndcg", "NDCG@10 of the window.", ["model", "slice"], registry=r
        )
        self.trial_coverage = Gauge(
            "foldstream_trial_coverage", "Share of items in a top 20 of the window.", registry=r
        )
        # What a leak shows in; looked at when the page is read. Of the process also
        # `process_resident_memory_bytes`, `process_open_fds` and `process_cpu_seconds_total`.
        tasks = Gauge("foldstream_asyncio_tasks", "Tasks of the event loop.", registry=r)
        tasks.set_function(n_tasks)
        connections = Gauge("foldstream_connections", "Open sockets.", registry=r)
        connections.set_function(n_connections)
        ProcessCollector(registry=r)
        self.recent_freshness_ms = Recent()
        self.recent_commit_ms = Recent()

    def observe_freshness(self, freshness_ms: float) -> None:
        """One pushed list: milliseconds from append to emission (never below zero)."""
        self.freshness_s.observe(max(freshness_ms, 0.0) / 1_000)
        self.recent_freshness_ms.add(max(freshness_ms, 0.0))

    def observe_window(self, window: Window) -> None:
        """The figures of live test-then-learn."""
        self.trial_coverage.set(window.coverage)
        for name, of_slice in {"all": window.models, **window.slices}.items():
            for model, figures in of_slice.items():
                self.trial_hit_rate.labels(model, name).set(figures.hr20)
                self.trial_mrr.labels(model, name).set(figures.mrr20)
                self.trial_ndcg.labels(model, name).set(figures.ndcg10)

    def forget_partition(self, partition: int) -> None:
        """It is another worker's now, and so is its lag."""
        with contextlib.suppress(KeyError):
            self.lag.remove(str(partition))

    def observe_commit(self, seconds: float, n_events: int) -> None:
        """One successful commit."""
        self.commits.inc()
        self.commit_s.observe(seconds)
        self.batch_events.observe(n_events)
        self.recent_commit_ms.add(seconds * 1_000)
