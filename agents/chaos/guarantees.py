"""The table in docs/guarantees.md, written from results files.

What stays true: a figure in it was measured on the commit that the table names; what was not run on
that commit is said to be missing, whatever was run on others. As long as the newest sources have
not been run through, the table stays that of the last commit that was, and says what has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from agents.chaos.results import stands_on_no_commit
from agents.chaos.scenario import Figure, Outcome, Scenario
from agents.errors import UsageError

BEGIN = "<!-- table of scenarios: written by `foldstream chaos --write-table`; do not edit -->"
END = "<!-- end of the table -->"


def write_table(
    page: Path,
    scenarios: Sequence[Scenario],
    outcomes: Iterable[Outcome],
    commit: str,
    changes_since: Callable[[str], Sequence[str]],
) -> None:
    """Replace what stands between the markers of `page`. Raises UsageError without them.

    commit: of the sources as they are now. changes_since: what has changed them since another
    commit, a line each.
    """
    try:
        text = page.read_text("utf-8")
    except FileNotFoundError:
        raise UsageError(f"{page} is not there: the table is written in a checkout") from None
    if BEGIN not in text or END not in text:
        raise UsageError(f"{page}: the markers of the table are not there: {BEGIN} and {END}")
    head, rest = text.split(BEGIN, 1)
    _, tail = rest.split(END, 1)
    written = table(scenarios, outcomes, commit, changes_since)
    page.write_text(f"{head}{BEGIN}\n\n{written}\n{END}{tail}", "utf-8")


def table(
    scenarios: Sequence[Scenario],
    outcomes: Iterable[Outcome],
    commit: str,
    changes_since: Callable[[str], Sequence[str]] = lambda commit: (),
) -> str:
    """Markdown: which commit it is of and what is missing there, a row for each scenario, then what
    they ran on and whatever failed."""
    outcomes = list(outcomes)
    shown = _commit_to_show(scenarios, outcomes, commit)
    here = [one for one in outcomes if one.commit == shown and not stands_on_no_commit(shown)]
    by_name: dict[str, list[Outcome]] = {}
    for outcome in newest(here):
        by_name.setdefault(outcome.scenario, []).append(outcome)
    relapses = failed_before(here)
    lines = [
        *_standing(scenarios, newest(here), shown),
        *([] if shown == commit else _changes(commit, changes_since(shown))),
        "",
        "| scenario | what must hold | passed | seeds | figures | commit |",
        "|---|---|---|---|---|---|",
    ]
    for scenario in scenarios:
        runs = by_name.get(scenario.name)
        if runs:
            n_relapses = len({run.seed for run in relapses if run.scenario == scenario.name})
            lines.append(_row(scenario, runs, n_relapses))
        else:
            elsewhere = [run for run in newest(outcomes) if run.scenario == scenario.name]
            lines.append(_row_of_others(scenario, elsewhere))
    everything = [outcome for found in by_name.values() for outcome in found]
    failed = [*everything, *relapses]
    if shown != commit:  # nor is hidden what failed since
        failed += newest(one for one in outcomes if one.commit == commit)
    lines += ["", *_ground(everything), *_failures(failed)]
    return "\n".join(lines).rstrip() + "\n"


def _commit_to_show(scenarios: Sequence[Scenario], outcomes: Sequence[Outcome], commit: str) -> str:
    """This commit if everything was run on it, else the last on which everything was, if any."""
    whole = {one.commit for one in outcomes if not stands_on_no_commit(one.commit)}
    whole = {
        one
        for one in whole
        if not _missing(scenarios, newest(run for run in outcomes if run.commit == one))
    }
    if not whole or commit in whole or stands_on_no_commit(commit):
        return commit
    return max((run.started, run.commit) for run in outcomes if run.commit in whole)[1]


def _missing(scenarios: Sequence[Scenario], runs: Sequence[Outcome]) -> list[str]:
    """What of these scenarios is not among the runs, as large and as long as it should be."""
    missing = []
    for scenario in scenarios:
        whole = {
            run.seed
            for run in runs
            if run.scenario == scenario.name
            and run.share >= 1
            and run.minutes >= scenario.default_minutes
        }
        left = [seed for seed in range(scenario.default_runs) if seed not in whole]
        if len(left) == scenario.default_runs:
            missing.append(f"`{scenario.name}`")
        elif left:
            missing.append(f"`{scenario.name}` (seeds {seeds(left)})")
    return missing


def _standing(scenarios: Sequence[Scenario], runs: Sequence[Outcome], commit: str) -> list[str]:
    """Which commit the rows are of, and what they lack."""
    if stands_on_no_commit(commit):
        return [f"The sources stand on no commit ({commit}): no run counts for them."]
    missing = _missing(scenarios, runs)
    first = (
        f"All rows are of commit `{commit}`, the last before them that changed what runs "
        "(`streams`, `profiles`, `pyproject.toml`, and `agents` without its bench), unless another "
        "is named."
    )
    if not missing:
        return [first]
    n_whole = len(scenarios) - len(missing)
    return [
        first,
        f"{n_whole} of {len(scenarios)} scenarios were run there in full; missing: "
        + ", ".join(missing)
        + ".",
    ]


def _changes(commit: str, changes: Sequence[str]) -> list[str]:
    """What has changed since the commit of the rows."""
    return [
        f"What runs has changed since, up to `{commit}`, where not every scenario has been run:",
        "",
        *(f"- {change}" for change in changes),
    ]


def newest(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Of several runs of one scenario and seed, the one that started last."""
    found: dict[tuple[str, int], Outcome] = {}
    for outcome in sorted(outcomes, key=lambda outcome: outcome.started):
        found[outcome.scenario, outcome.seed] = outcome
    return list(found.values())


def failed_before(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Runs that failed on the very commit on which their seed passed later.

    A seed repeats the schedule, not every race: what failed once is not whole because it held the
    next time, so the table says both.
    """
    last = {(run.scenario, run.seed): run for run in newest(outcomes)}
    return [
        run
        for run in outcomes
        if not run.passed
        and last[run.scenario, run.seed].passed
        and run.commit == last[run.scenario, run.seed].commit
    ]


def _row(scenario: Scenario, runs: Sequence[Outcome], n_relapses: int = 0) -> str:
    n_passed = sum(run.passed for run in runs)
    passed = f"{n_passed} of {len(runs)}"
    if len(runs) < scenario.default_runs:
        passed += f" ({scenario.default_runs} wanted)"
    if any(run.share < 1 for run in runs):
        passed += f" at {min(run.share for run in runs):.0%} of the size"
    if any(run.minutes < scenario.default_minutes for run in runs):
        passed += f", some in {min(run.minutes for run in runs):g} minutes"
    if any(run.beside for run in runs):
        passed += f", {sum(run.beside for run in runs)} of them beside other runs"
    if n_relapses:
        passed += f", {n_relapses} of them not at the first try"
    numbers = seeds(sorted(run.seed for run in runs))
    return _cells(scenario, passed, numbers, _figures(runs), runs)


def _row_of_others(scenario: Scenario, runs: Sequence[Outcome]) -> str:
    """A scenario that was not run on this commit; runs: on others, whose figures say nothing."""
    passed = "not run yet"
    if runs:
        n_passed = sum(run.passed for run in runs)
        passed = f"not run on this commit; on others {n_passed} of {len(runs)}"
    return _cells(scenario, passed, "", "", runs)


def _cells(
    scenario: Scenario, passed: str, numbers: str, figures: str, runs: Sequence[Outcome]
) -> str:
    commits = ", ".join(sorted({run.commit for run in runs}))
    cells = [
        f"`{scenario.name}`: {scenario.title}",
        scenario.promise,
        passed,
        numbers,
        figures,
        commits,
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
            lines.append(
                f"- `{outcome.scenario}`, seed {outcome.seed}, on {outcome.commit}: {text}"
            )
    return lines
