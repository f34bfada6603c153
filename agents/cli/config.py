"""`foldstream config show`: every setting, its value and where it came from."""

from __future__ import annotations

import typer
from rich.table import Table

from agents.cli.common import ConfigOption, DataDirOption, JsonOption, Output, settings_for
from streams.addresses import without_passwords


def register(app: typer.Typer) -> None:
    """Add the command group."""
    group = typer.Typer(help="The settings in force.", no_args_is_help=True)

    @group.command("show")
    def show(
        config: ConfigOption = None, data_dir: DataDirOption = None, as_json: JsonOption = False
    ) -> None:
        """Print every setting with its value, source and meaning."""
        loaded = settings_for(config, data_dir=data_dir)
        values = loaded.settings.model_dump(mode="json")
        values["redis"] = without_passwords(values["redis"])
        output = Output(as_json)
        output.result(
            {key: {"value": value, "source": loaded.sources[key]} for key, value in values.items()}
        )
        table = Table(box=None)
        for heading in ("setting", "value", "source", "meaning"):
            table.add_column(heading, overflow="fold")
        for key, value in values.items():
            meaning = type(loaded.settings).model_fields[key].description or ""
            table.add_row(key, str(value), loaded.sources[key], meaning)
        output.show(table)

    app.add_typer(group, name="config")
