"""The table in docs/guarantees.md, written from results files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from agents.chaos.scenario import Figure, Outcome, Scenario
from agents.errors import UsageError

BEGIN = "<!-- table of scenarios: written by `foldstream chaos --write-table`; do not edit -->"
END = "<!-- end of the table -->"
N_FIGURES = 8


def write_table(page: Path, scenarios: Sequence[Scenario], outcomes: Iterable[Outcome]) -> None:
    """Replace what stands between the markers of `page`. Raises UsageError without them."""
    text = page.read_text("utf-8")
    if BEGIN not in text or END not in text:
        raise UsageError(f"{page}: the markers of the table are not there: {BEGIN} and {END}")
    head, rest = text.split(BEGIN, 1)
    _, tail = rest.split(END, 1)
    page.write_text(f"{head}{BEGIN}\n\n{table(scenarios, outcomes)}\n{END}{tail}", "utf-8")


def table(scenarios: Sequence[Scenario], outcomes: Iterable[Outcome]) -> str:
    """Markdown: a row for each scenario, then what they ran on and whatever failed."""
    by_name: dict[str, list[Outcome]] = {}
    for outcome in newest(outcomes):
        by_name.setdefault(outcome.scenario, []).append(outcome)
    lines = [
        "| scenario | what must hold | passed | seeds | figures | commit |",
        "|---|---|---|---|---|---|",
    ]
    for scenario in scenarios:
        lines.append(_row(scenario, by_name.get(scenario.name, [])))
    everything = [outcome for found in by_name.values() for outcome in found]
    lines += ["", *_ground(everything), *_failures(everything)]
    return "\n".join(lines) + "\n"


def newest(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Of several runs of one scenario and seed, the one that started last."""
    found: dict[tuple[str, int], Outcome] = {}
    for outcome in sorted(outcomes, key=lambda outcome: outcome.started):
        found[outcome.scenario, outcome.seed] = outcome
    return list(found.values())


def _row(scenario: Scenario, runs: Sequence[Outcome]) -> str:
    n_passed = sum(run.passed for run in runs)
    passed = f"{n_passed} of {len(runs)}" if runs else "not run yet"
    if runs and len(runs) < scenario.default_runs:
        passed += f" ({scenario.default_runs} wanted)"
    if any(run.share < 1 for run in runs):
        passed += f" at {min(run.share for run in runs):.0%} of the size"
    cells = [
        f"`{scenario.name}`: {scenario.title}",
        scenario.promise,
        passed,
        seeds(sorted(run.seed for run in runs)),
        _figures(runs),
        ", ".join(sorted({run.commit for run in runs})),
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def seeds(numbers: Sequence[int]) -> str:
    """Numbers in short.

    >>> seeds([0, 1, 2, 5]), seeds([])
    ('0-2, 5', '')
    """
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)


def _figures(runs: Sequence[Outcome]) -> str:
    """Each figure over the runs: one value, or the smallest and the largest."""
    names = list(dict.fromkeys(name for run in runs for name in run.figures))
    texts = []
    for name in names:
        figures = [run.figures[name] for run in runs if name in run.figures]
        texts.append(f"{name} {span(figures)}")
    return "; ".join(texts)


def span(figures: Sequence[Figure]) -> str:
    """Several runs' values of one figure.

    >>> span([Figure(1.0, "s"), Figure(2.5, "s")]), span([Figure(3, "events")] * 2)
    ('1 to 2.5 s', '3 events')
    """
    unit = f" {figures[0].unit}" if figures[0].unit else ""
    numbers = [figure.value for figure in figures if isinstance(figure.value, int | float)]
    if len(numbers) < len(figures):
        return ", ".join(dict.fromkeys(str(figure.value) for figure in figures)) + unit
    low, high = min(numbers), max(numbers)
    return f"{low:,.6g}{unit}" if low == high else f"{low:,.6g} to {high:,.6g}{unit}"


def _ground(outcomes: Sequence[Outcome]) -> list[str]:
    """Versions and machines, each once."""
    lines = []
    versions: dict[str, set[str]] = {}
    for outcome in outcomes:
        for name, version in outcome.versions.items():
            versions.setdefault(name, set()).add(version)
    if versions:
        text = ", ".join(f"{name} {' / '.join(sorted(v))}" for name, v in sorted(versions.items()))
        lines.append(f"Versions: {text}.")
    machines = sorted({outcome.machine.rpartition(", load")[0] for outcome in outcomes})
    lines += [f"Machine: {machine}." for machine in machines]
    return lines


def _failures(outcomes: Sequence[Outcome]) -> list[str]:
    """What did not hold, by name: a table that hides it would be worth nothing."""
    failed = [outcome for outcome in outcomes if not outcome.passed]
    if not failed:
        return []
    lines = ["", "What did not hold:", ""]
    for outcome in failed:
        for failure in outcome.failures:
            text = " ".join(failure.split())[:300]
            lines.append(f"- `{outcome.scenario}`, seed {outcome.seed}: {text}")
    return lines
