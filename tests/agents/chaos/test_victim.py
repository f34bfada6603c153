"""A victim harms itself exactly as told, and a clock that is set is off for all Python code."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from agents.chaos.victim import VictimOrder, _reach, set_clock
from agents.chaos.worker_process import metric_in

CLOCK = """
import sys, time
from pathlib import Path
from agents.chaos.victim import set_clock, shift_clock
path = Path(sys.argv[1])
before = time.monotonic()
shift_clock(path)
print(time.time() - time.time_ns() / 1e9)
print(time.time())
set_clock(path, -5_000)
print(time.time())
print(time.monotonic() - before)
"""


def test_a_clock_jumps_when_its_file_says_so(tmp_path: Path) -> None:
    set_clock(tmp_path / "clock", 3_600_000)
    done = subprocess.run(
        [sys.executable, "-c", CLOCK, tmp_path / "clock"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    difference, ahead, behind, elapsed = map(float, done.stdout.split())
    assert abs(difference) < 0.1
    assert 3_500 < ahead - time.time() < 3_601
    assert -60 < behind - time.time() < -4
    assert elapsed < 60


def test_a_victim_strikes_at_the_chosen_visit_of_the_chosen_point() -> None:
    code = (
        "from agents.chaos.victim import VictimOrder, _reach\n"
        "reach = _reach(VictimOrder(point='folded', visit=2))\n"
        "for point in ('folded', 'committed', 'folded'):\n"
        "    print(point, flush=True)\n"
        "    reach(point)\n"
        "print('alive')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == -9
    assert done.stdout.split() == ["folded", "committed", "folded"]


def test_a_victim_without_a_point_does_nothing() -> None:
    _reach(VictimOrder())("folded")


def test_a_metric_is_summed_over_the_labels_that_were_not_named() -> None:
    text = '# HELP a_total x\na_total{kind="x",p="1"} 2.0\na_total{kind="x",p="2"} 3.0\nb 1.0\n'
    assert metric_in(text, "a_total") == 5.0
    assert metric_in(text, "a_total", p="2") == 3.0
    assert metric_in(text, "c") == 0.0
