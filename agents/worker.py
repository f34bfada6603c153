"""Runs one worker process: Faust's worker around the application, and what a crash ends with.

When another generation is promoted, the process ends its work in order and becomes a new one, with
the same arguments and process id: arrays, kernels and pages are made for one generation's sizes.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable

import faust
import structlog
import uvloop
from threadpoolctl import threadpool_limits

from agents import logs
from agents.app import Worker, build_app, prepare
from agents.instance import worker_number
from agents.memory import keep_compact
from agents.settings import PREFIX, Settings

logger = structlog.get_logger(__name__)


def run_worker(settings: Settings, build: Callable[[Settings, int], Worker] = build_app) -> None:
    """Run until SIGINT or SIGTERM, or until something fails that may not be passed over.

    build: makes the worker's parts from settings and number; chaos puts faults between them.
    Raises the error that ended the worker; a supervisor starts it again, and it replays from the
    last commit.
    """
    logs.set_up(settings.log_level, settings.log_json)
    keep_compact()
    with worker_number(settings.data_dir) as number:
        loop = uvloop.new_event_loop()
        # Before Faust starts: its consumer must find the topic of its agent.
        ours = build(loop.run_until_complete(prepare(settings)), number)
        worker = faust.Worker(
            ours.app,
            loop=loop,
            quiet=True,
            redirect_stdouts=False,
            override_logging=False,
        )
        calm_collector()
        # A product of 20 users with 3,000 items takes 0.3 ms on one thread, and five times that of
        # processor time on two, which spin while they wait for each other (measured): time that
        # the broker and the store on the same machine don't get.
        threadpool_limits(limits=1, user_api="blas")
        worker.spinner = None  # it would write to the terminal, also where there is none
        ours.watch.on_promoted = lambda: _stop_for_promotion(ours, worker)
        try:
            worker.execute_from_commandline()
        except SystemExit as end:
            # mode turns every error into exit code 1; ours has a name and a way out.
            if worker.crash_reason is not None:
                raise worker.crash_reason from None
            if end.code:
                raise
    if ours.watch.promoted is not None:
        _begin_anew(ours, settings)


def _stop_for_promotion(ours: Worker, worker: faust.Worker) -> None:
    """A graceful stop that keeps our place in the groups: we are back within seconds."""
    if ours.updater is not None:
        ours.updater.leave_group = False
    if ours.scorer is not None:
        ours.scorer.leave_group = False
    worker._schedule_shutdown(signal.SIGTERM)


def _begin_anew(ours: Worker, settings: Settings) -> None:
    """Replace this process by a new one; whoever supervises it sees no change."""
    logger.info("going on in the promoted generation", generation=ours.watch.promoted)
    if settings.port == 0 and ours.http is not None and ours.http.last_port:
        os.environ[f"{PREFIX}PORT"] = str(ours.http.last_port)  # pages stay where they were
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def calm_collector() -> None:
    """Let the garbage collector look rarely, and never at what was there from the start.

    A batch makes tens of thousands of events and records that die with it by their reference
    counts; with the default threshold of 700 the collector walks through all of them dozens of
    times a batch and finds nothing (measured: 95,000 events/s with it, 124,000 without).

    The price: what does end in a reference cycle, such as an exception that a frame of its own
    traceback names, waits for long. One in each batch kept 150 MB.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 20, 100)
