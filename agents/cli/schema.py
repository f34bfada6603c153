"""`foldstream schema`: the JSON Schemas of what travels on the topics."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from agents.cli.common import ConfigOption, JsonOption, Output, settings_for
from agents.errors import UsageError
from streams.schemas import schema_of, schemas


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("schema")
    def command(
        topic: Annotated[
            str | None, typer.Argument(help="events, items, ...: one topic. Default: all.")
        ] = None,
        out: Annotated[
            Path | None, typer.Option(help="Write a file <topic>.schema.json each into a folder.")
        ] = None,
        config: ConfigOption = None,
        as_json: JsonOption = False,
    ) -> None:
        """Print the JSON Schemas (draft 2020-12) of the topics' values, or write them to files.

        The shop's own kinds of interaction, from the configuration, are part of them.
        """
        settings = settings_for(config).settings
        known = schemas([kind.name for kind in settings.kinds])
        known["metrics"] = schema_of(_window())
        if topic is not None and topic not in known:
            raise UsageError(f"topic {topic!r}: no schema; there are {', '.join(known)}")
        chosen = known if topic is None else {topic: known[topic]}
        output = Output(as_json)
        if out is None:
            document = known[topic] if topic is not None else chosen
            print(msgspec.json.format(msgspec.json.encode(document)).decode())
            return
        files: list[str] = []
        try:
            out.mkdir(parents=True, exist_ok=True)
            for name, schema in chosen.items():
                file = out / f"{name}.schema.json"
                file.write_bytes(msgspec.json.format(msgspec.json.encode(schema)) + b"\n")
                files.append(str(file))
        except OSError as error:
            raise UsageError(f"--out {out}: cannot be written ({error.strerror})") from error
        output.result({"files": files})
        for name in files:
            output.say(name)


def _window() -> type:
    from agents.windows import Window  # here: its figures take a second to import

    return Window
