"""Half of what the machine takes, for as long as one likes: does anything grow?"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from agents.chaos.bed import Bed
from agents.chaos.drift import Drift, calm, drift
from agents.chaos.scenario import Plan, Report, Scenario
from agents.chaos.steady import SteadyLoad
from agents.chaos.worker_process import NotWithin, WorkerProcess, metric_in, until
from agents.scorer import PENDING_USERS

SAMPLE_S = 5.0

WINDOW_S = 60.0
"""Of memory the least value a minute counts: a batch in work takes some and gives it back."""

WARM_UP = 0.2
"""Share of the run before anything is judged: caches fill (two minutes at most), the kernel's and
the allocator's memory settles."""

JUDGED_S = 20 * 60.0
"""A slope of 1 MB an hour is a third of a megabyte in so long: below it memory is only shown."""

SLOPE_MB_PER_H = 1.0
TO_MB_PER_H = 3_600 / 1e6

COUNTED = ("fds", "tasks", "connections")
"""Must be flat: of their least value a minute the slope's 95 % interval holds no growth, or the
whole run's growth is less than `ONE`."""

ONE = 1.0
"""A count that has grown by less than one has not grown."""

MINUTES_S = 5 * 60.0
"""A shorter run has few samples, and may fall into other weather than its calibration where the
machine is shared: it is not asked for a half load, and a count of it may grow by `SHORT`."""

SHORT = 12.0
"""Some tasks for each list that is on its way to the broker."""

REST_S = 120.0
"""For what is left in the end: at half load next to nothing."""

CALIBRATION_EVENTS = 100_000

CACHE_USERS = 20_000
"""Of the worker: full within the warm-up, so that the run is about a cache that forgets."""


@dataclass(slots=True)
class Samples:
    """What was seen of the worker, a value each `SAMPLE_S`."""

    at_s: list[float] = field(default_factory=list)
    rss: list[float] = field(default_factory=list)
    fds: list[float] = field(default_factory=list)
    tasks: list[float] = field(default_factory=list)
    connections: list[float] = field(default_factory=list)
    lag: list[float] = field(default_factory=list)
    waiting: list[float] = field(default_factory=list)
    cached: list[float] = field(default_factory=list)

    async def take(self, worker: WorkerProcess) -> bool:
        """Look once; False when the worker gave no answer."""
        text = await worker.get("/metrics")
        if text is None:
            return False
        self.at_s.append(time.monotonic())
        self.rss.append(metric_in(text, "process_resident_memory_bytes"))
        self.fds.append(metric_in(text, "process_open_fds"))
        self.tasks.append(metric_in(text, "foldstream_asyncio_tasks"))
        self.connections.append(metric_in(text, "foldstream_connections"))
        self.lag.append(metric_in(text, "foldstream_partition_lag"))
        self.waiting.append(metric_in(text, "foldstream_scorer_waiting"))
        self.cached.append(metric_in(text, "foldstream_profiles_cached"))
        return True

    def append_last_to(self, file: Path) -> None:
        """The last look as a line of JSON."""
        with file.open("ab") as lines:
            lines.write(msgspec.json.encode({n: getattr(self, n)[-1] for n in self.__slots__}))
            lines.write(b"\n")

    def after(self, share: float) -> Samples:
        """Those behind the first share of the time."""
        first = next(
            n
            for n, at in enumerate(self.at_s)
            if at - self.at_s[0] >= share * (self.at_s[-1] - self.at_s[0])
        )
        return Samples(*(getattr(self, name)[first:] for name in self.__slots__))


async def run_soak(bed: Bed, draw: random.Random, report: Report, plan: Plan) -> None:
    """Calibrate, then half of that for the run's minutes, then look at the slopes."""
    seconds = plan.minutes * 60 * min(1.0, plan.share)
    load = SteadyLoad(bed, draw.randrange(1 << 30))
    async with bed.worker(
        "w0", agents=["updater", "catalogue", "scorer", "dashboard"], cache_users=CACHE_USERS
    ) as worker:
        await worker.ready()
        await load.start()
        try:
            rate = await _calibrated(load, worker, report, plan)
            load.rate_per_s, load.requests_per_s = rate / 2, 2.0
            samples = await _watched(worker, report, seconds, bed.folder / "samples.jsonl")
        finally:
            await load.stop()
        try:
            await until(lambda: _rested(worker), "what was sent is folded and scored", REST_S)
        except NotWithin as late:
            report.check(False, "the backlog is worked off", str(late))
    report.figure("events", load.n_events)
    _judge(samples, report)


async def _calibrated(load: SteadyLoad, worker: WorkerProcess, report: Report, plan: Plan) -> float:
    """Events a second that are folded and scored, as fast as it goes, just before the run."""
    n_events = plan.scaled(CALIBRATION_EVENTS, least=5_000)
    await load.burst(n_events // 5)  # the kernel compiles, tables grow
    await until(lambda: _rested(worker), "the first events are folded and scored", 180)
    began = time.monotonic()
    await load.burst(n_events)
    await until(lambda: _rested(worker), "the calibration is folded and scored", 600)
    rate = n_events / (time.monotonic() - began)
    report.figure("full load", round(rate), "events/s")
    return rate


async def _rested(worker: WorkerProcess) -> bool:
    """Nothing is left to fold, and no list to make, for half a second on end."""
    for _ in range(3):
        text = await worker.get("/metrics")
        if text is None or "foldstream_partition_lag" not in text:
            return False
        if metric_in(text, "foldstream_partition_lag") or metric_in(
            text, "foldstream_scorer_waiting"
        ):
            return False
        await asyncio.sleep(0.5)  # the lag is measured once a second
    return True


async def _watched(worker: WorkerProcess, report: Report, seconds: float, file: Path) -> Samples:
    """Take samples; each also goes to a file, for whoever wants to see more than the verdict."""
    samples = Samples()
    began = time.monotonic()
    n_missed = 0
    said = began
    while time.monotonic() - began < seconds or len(samples.at_s) < 8:
        if not worker.alive():
            report.check(False, "the worker lives", worker.log_tail())
            break
        if await samples.take(worker):
            samples.append_last_to(file)
        else:
            n_missed += 1
        if time.monotonic() - said > 60 and samples.at_s:
            said = time.monotonic()
            report.step(
                f"{(said - began) / 60:.0f} min: {samples.rss[-1] / 1e6:.1f} MB, "
                f"{samples.fds[-1]:.0f} descriptors, {samples.tasks[-1]:.0f} tasks, "
                f"{samples.connections[-1]:.0f} connections, lag {samples.lag[-1]:.0f}, "
                f"{samples.waiting[-1]:.0f} wait for a list, {samples.cached[-1]:.0f} cached"
            )
        await asyncio.sleep(min(SAMPLE_S, seconds / 20))
    report.check(n_missed <= 0.01 * len(samples.at_s), "the worker answers", f"{n_missed} times no")
    return samples


def _judge(samples: Samples, report: Report) -> None:
    judged = samples.after(WARM_UP)
    seconds = judged.at_s[-1] - judged.at_s[0]
    report.figure("judged", round(seconds / 60, 1), "min")
    report.figure("memory", round(statistics.median(judged.rss) / 1e6, 1), "MB")
    report.figure("lag, worst", max(judged.lag), "events")
    report.figure("lists waiting, worst", max(judged.waiting), "users")
    waiting = statistics.median(judged.waiting)
    report.figure("lists waiting, median", waiting, "users")
    if seconds >= MINUTES_S:
        report.check(
            waiting <= PENDING_USERS / 2,
            "it is a half load: in the median, the lists that wait are few",
            f"{waiting:.0f} users; the machine took less than it did just before",
        )
    report.check(
        max(judged.waiting) <= 2 * PENDING_USERS,  # one message may name many
        "the users who wait for a list are bounded",
        f"{max(judged.waiting):.0f}",
    )
    most = max(judged.cached)
    report.check(most <= CACHE_USERS, "the cache is bounded", f"{most:.0f} users")
    window_s = min(WINDOW_S, seconds / 12)
    whole = _memory_slope("memory slope", judged, window_s, report)
    _memory_slope("memory slope of the last half", judged.after(0.5), window_s, report)
    if seconds >= JUDGED_S:
        # The point estimate: over 36 minutes the interval is wider than what is promised.
        report.check(
            whole.slope * TO_MB_PER_H < SLOPE_MB_PER_H,
            f"memory grows by less than {SLOPE_MB_PER_H:g} MB an hour (Theil-Sen slope of the "
            "least value a minute)",
            f"{whole.slope * TO_MB_PER_H:.2f} MB/h",
        )
    for name in COUNTED:
        values: list[float] = getattr(judged, name)
        report.figure(name, statistics.median(values))
        times, least = calm(judged.at_s, values, window_s)
        found = drift(times.tolist(), least.tolist())
        grown = found.slope * (times[-1] - times[0])
        report.figure(f"{name}, growth", round(float(grown), 2))
        most = ONE if seconds >= MINUTES_S else SHORT
        report.check(is_flat(found, grown, most), f"{name}: flat",
                     f"grown by {grown:.1f}, {found.low * 3_600:.1f} to {found.high * 3_600:.1f} "
                     "an hour")  # fmt: skip


def is_flat(found: Drift, grown: float, most: float = ONE) -> bool:
    """Whether a count does not grow: not surely, or over the whole run by less than `most`."""
    return found.low <= 0 or grown < most


def _memory_slope(name: str, samples: Samples, window_s: float, report: Report) -> Drift:
    times, least = calm(samples.at_s, samples.rss, window_s)
    found = drift(times.tolist(), least.tolist())
    report.figure(name, round(found.slope * TO_MB_PER_H, 2), "MB/h")
    low, high = found.low * TO_MB_PER_H, found.high * TO_MB_PER_H
    report.figure(f"{name}, 95 %", f"{low:.2f} to {high:.2f}", "MB/h")
    return found


SCENARIOS = (
    Scenario(
        name="soak",
        title="45-minute soak at half load",
        promise=(
            "memory slope under 1 MB/h after warm-up; descriptors, tasks, connections flat; it is "
            "a half load"
        ),
        default_minutes=45,
        run=run_soak,
    ),
)
