"""`foldstream evaluate`: is it better than counting? Test-then-learn beside rivals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from agents.cli.common import ConfigOption, JsonOption, Output, settings_for
from agents.errors import CheckFailed, UsageError
from agents.evaluate.attack import Attacked, attacked
from agents.evaluate.figures import READINGS, Figures
from agents.evaluate.fold_ranker import FoldRanker, measured_config
from agents.evaluate.plot import write_plot
from agents.evaluate.rivals.catalogue import ENTRIES
from agents.evaluate.run import OURS, Evaluation, evaluate
from agents.evaluate.several import shared
from agents.evaluate.stream import Stream, read_stream
from agents.evaluate.through_kafka import Agreement, agree
from agents.store_access import fold_config_of

MODELS_HELP = f"Some of {OURS}, {', '.join(entry.key for entry in ENTRIES)}; default all."


RATE = 250.0


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("evaluate")
    def command(
        data: Annotated[
            Path, typer.Argument(help="A folder of data files, or one file of events.")
        ],
        mapping: Annotated[
            str | None, typer.Option(help="As `ingest` takes it. Default: by the first line.")
        ] = None,
        models: Annotated[str | None, typer.Option(help=MODELS_HELP)] = None,
        limit: Annotated[
            int | None,
            typer.Option(
                min=0, help="Positive events to take; 0: all. Default: as the data set's protocol."
            ),
        ] = None,
        negatives: Annotated[
            int | None,
            typer.Option(min=1, max=256, help="Of each sort. Default: the worker's settings."),
        ] = None,
        seed: Annotated[int, typer.Option(min=0, help="Another one, other draws.")] = 0,
        plot: Annotated[
            Path | None, typer.Option(help="Write hit rate@20 by position in the stream, SVG.")
        ] = None,
        through_kafka: Annotated[
            bool,
            typer.Option(
                "--through-kafka", help="Rank in a real worker, on a broker and store of its own."
            ),
        ] = False,
        workers: Annotated[
            int | None,
            typer.Option(min=1, max=4, help="With --through-kafka: so many workers share it."),
        ] = None,
        rate: Annotated[
            float | None,
            typer.Option(min=1, help=f"With --workers: events sent a second. Default: {RATE:g}."),
        ] = None,
        attack: Annotated[
            int | None,
            typer.Option(min=1, help="Fake users that push one item: what honest users lose."),
        ] = None,
        attack_visits: Annotated[
            int | None, typer.Option(min=1, help="With --attack: of each fake user. Default: 1.")
        ] = None,
        every: Annotated[int, typer.Option(min=1, help="Rank each n-th event only.")] = 1,
        tenths: Annotated[
            bool, typer.Option("--tenths", help="Rank the first half too; show each tenth.")
        ] = False,
        pace: Annotated[
            float | None, typer.Option(help="Event times so many a second, not the data's.")
        ] = None,
        config: ConfigOption = None,
        as_json: JsonOption = False,
    ) -> None:
        """Rank each event before it is learned, by our model and by its rivals.

        Figures are of the second half of the stream. Every rival's parameters are chosen on the
        first half; ours are the worker's settings. A rival that wins is shown as winning.
        """
        if workers is not None and not through_kafka:
            raise UsageError("--workers goes with --through-kafka")
        if rate is not None and workers is None:
            raise UsageError("--rate goes with --workers")
        if attack_visits is not None and attack is None:
            raise UsageError("--attack-visits goes with --attack")
        if through_kafka:
            refuse("--through-kafka", {"--seed": seed})
        if through_kafka and attack is not None:
            raise UsageError("--through-kafka and --attack: choose one")
        if through_kafka or attack is not None:
            refuse(
                "--through-kafka" if through_kafka else "--attack",
                {"--plot": plot, "--every": every > 1, "--tenths": tenths, "--models": models},
            )
        if pace is not None and not pace > 0:
            raise UsageError(f"--pace {pace}: give events a second, above 0")
        output = Output(as_json)
        settings = settings_for(config).settings
        kinds = settings.kinds_table()
        with output.progress() as progress:
            task = progress.add_task("reading", total=None, rate="")

            def on_progress(what: str, done: int, n: int) -> None:
                progress.update(task, description=what, completed=done, total=n)

            stream = read_stream(
                data, mapping, limit, kinds, lambda done, n: on_progress("reading", done, n)
            )
            if pace is not None:
                stream = stream.paced(pace)
            fold = measured_config(fold_config_of(settings), negatives)
            if workers is not None:
                together = shared(stream, fold, workers, rate or RATE, kinds, on_progress)
                progress.stop()
                output.result(together)
                output.show(
                    figures_table(
                        f"{together.n:,} of {together.n_asked:,} events, {workers} workers",
                        together.figures,
                    )
                )
                return
            if through_kafka:
                agreement = agree(stream, fold, kinds, on_progress)
                progress.stop()
                output.result(agreement)
                show_agreement(output, agreement)
                if agreement.n_different:
                    raise CheckFailed(
                        f"{agreement.n_different:,} of {agreement.n:,} ranks differ from the same"
                        " model without a broker"
                    )
                return
            if attack is not None:
                outcome = attacked(
                    stream, fold, attack, attack_visits or 1, kinds, seed, on_progress
                )
                progress.stop()
                output.result(outcome)
                show_attack(output, outcome)
                return
            run = evaluate(
                stream,
                fold,
                kinds=kinds,
                models=models.split(",") if models else None,
                seed=seed,
                whole=tenths or plot is not None,
                every=every,
                on_progress=on_progress,
            )
        if plot is not None:
            write_plot(plot, stream, run.trials)
        output.result(run.evaluation)
        if not as_json:
            show(output, stream, run.evaluation)


def refuse(measurement: str, options: Mapping[str, object]) -> None:
    """Raises UsageError for an option that is given (true) and that a measurement has no use for.

    >>> refuse("--attack", {"--plot": None, "--tenths": False})
    """
    given = [name for name, value in options.items() if value]
    if given:
        raise UsageError(f"{measurement} has no use for {', '.join(given)}: leave it out")


def figures_table(title: str, of_models: dict[str, Figures]) -> Table:
    """Figures by model."""
    table = Table(title=title, box=None)
    for column in ("", "HR@10", "HR@20", "MRR@20", "NDCG@10"):
        table.add_column(column, justify="right" if column else "left")
    for name, f in of_models.items():
        table.add_row(name, *(f"{x:.3f}" for x in (f.hr10, f.hr20, f.mrr20, f.ndcg10)))
    return table


def show_agreement(output: Output, agreement: Agreement) -> None:
    """What came through the broker, for people."""
    output.show(figures_table(f"{agreement.n:,} events ranked by a worker", agreement.figures))
    output.say(
        f"ranks equal to those without a broker: {agreement.n - agreement.n_different:,} of"
        f" {agreement.n:,}"
    )


def show_attack(output: Output, outcome: Attacked) -> None:
    """What fake users did, for people."""
    table = Table(
        title=f"{outcome.fakes:,} fake users push {outcome.pushed}: {outcome.fake_events:,} events"
        f" among {outcome.events:,}",
        box=None,
    )
    for column in ("honest users", "HR@20", "MRR@20", "lists with the pushed item"):
        table.add_column(column, justify="right" if table.columns else "left")
    for name, f, shown in (
        ("without the ring", outcome.without, outcome.shown_without),
        ("with it", outcome.with_ring, outcome.shown_with),
    ):
        table.add_row(name, f"{f.hr20:.4f} ±{f.se['hr@20']:.4f}", f"{f.mrr20:.4f}", f"{shown:.2%}")
    output.show(table)
    output.say(
        f"hit rate@20 lost: {outcome.loss:.2%}; wanted by {outcome.wanted:.3%} of the events"
    )
    output.say(
        f"drift, 1 - cosine: {outcome.drift:.3f}; of an item beside it: {outcome.drift_beside:.3f}"
    )


def show(output: Output, stream: Stream, evaluation: Evaluation) -> None:
    """The tables for people."""
    output.say(
        f"{evaluation.data}: {evaluation.events:,} events, {evaluation.users:,} users,"
        f" {evaluation.items:,} items; {evaluation.ranked:,} ranked"
    )
    for reading in READINGS:
        with_reading = [model for model in evaluation.models if reading in model.readings]
        if with_reading and with_reading[0].readings[reading].n:
            output.show(_readings_table(evaluation, reading))
    output.show(_slices_table("all", {m.name: m.slices for m in evaluation.models}))
    if evaluation.models[0].catalogue_slices:
        of_catalogue = {m.name: m.catalogue_slices for m in evaluation.models}
        output.show(_slices_table("catalogue", of_catalogue))
    if evaluation.tenths:
        output.show(_tenths_table(evaluation))
    if evaluation.ratings:
        output.show(_ratings_table(evaluation))
    for model in evaluation.models:
        output.say(f"{model.name}: {model.about} ({model.seconds:.0f} s)")
    for ratings in evaluation.ratings:
        output.say(f"ratings by {ratings.name}: {ratings.about}")
    for name, reason in evaluation.left_out.items():
        output.say(f"left out: {name}: {reason}")


def _readings_table(evaluation: Evaluation, reading: str) -> Table:
    figures = {model.name: model.readings[reading] for model in evaluation.models}
    table = Table(title=f"{reading} ({next(iter(figures.values())).n:,} events)", box=None)
    last = "MAP@5" if reading == "query" else "NDCG@10"
    table.add_column("", no_wrap=True)
    for column in ("HR@10", "HR@20", "MRR@20", last, "coverage" if reading == "all" else ""):
        table.add_column(column, justify="right", no_wrap=True)
    by = "map5" if reading == "query" else "hr20"
    best = max(figures, key=lambda name: float(getattr(figures[name], by)))
    for model in evaluation.models:
        f = figures[model.name]
        cells = [
            f"{f.hr10:.3f}",
            f"{f.hr20:.3f} ±{f.se['hr@20']:.3f}",
            f"{f.mrr20:.3f} ±{f.se['mrr@20']:.3f}",
            f"{f.map5 if reading == 'query' else f.ndcg10:.3f}",
            f"{model.coverage:.3f}" if reading == "all" else "",
        ]
        wins = model.name == best
        table.add_row(f"{model.name}{' *' if wins else ''}", *cells, style="bold" if wins else None)
    if reading in evaluation.ratios:
        ratios = ", ".join(f"{n} {value:.3f}" for n, value in evaluation.ratios[reading].items())
        rival = evaluation.best_simple[reading]
        table.caption = f"* best. {FoldRanker.name} / {rival}: {ratios}"
    return table


def _slices_table(reading: str, slices: dict[str, dict[str, Figures]]) -> Table:
    table = Table(title=f"HR@20 by slice of `{reading}`", box=None)
    table.add_column("", no_wrap=True)
    names = next(iter(slices.values()))
    for name, figures in names.items():
        table.add_column(f"{name}\n{figures.n:,}", justify="right")
    for model, found in slices.items():
        table.add_row(model, *(f"{found[name].hr20:.3f}" for name in names))
    return table


def _ratings_table(evaluation: Evaluation) -> Table:
    table = Table(title=f"stars expected ({evaluation.ratings[0].n:,} ratings)", box=None)
    for column in ("", "RMSE", "MAE"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    best = min(evaluation.ratings, key=lambda model: model.rmse)
    for model in evaluation.ratings:
        table.add_row(
            f"{model.name}{' *' if model is best else ''}",
            f"{model.rmse:.3f} ±{model.se['rmse']:.3f}",
            f"{model.mae:.3f} ±{model.se['mae']:.3f}",
            style="bold" if model is best else None,
        )
    return table


def _tenths_table(evaluation: Evaluation) -> Table:
    table = Table(title="HR@20 / MRR@20 by tenth of the stream", box=None)
    table.add_column("", no_wrap=True)
    for number in range(1, 11):
        table.add_column(str(number), justify="right")
    for name, of_model in evaluation.tenths.items():
        table.add_row(name, *(f"{f.hr20:.3f}\n{f.mrr20:.3f}" for f in of_model))
    return table
