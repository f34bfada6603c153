"""`foldstream`: the command line. Each command is a file in `agents.cli`."""

from __future__ import annotations

import importlib
import inspect
import platform
import sys
from importlib.metadata import version
from typing import Annotated

import typer
from rich.console import Console

# Typer carries a click of its own: the classes of the package `click` would catch nothing.
from typer._click.exceptions import ClickException

from agents import logs
from agents.cli.common import Exit
from agents.errors import AgentsError, CheckFailed, NothingRuns, SettingsError, UsageError
from profiles.errors import ProfilesError, StoreAway
from streams.errors import BrokerAway, MappingError, StreamsError

COMMANDS = {
    "up": "stack",
    "down": "stack",
    "status": "stack",
    "warmup": "warmup",
    "worker": "worker",
    "ingest": "ingest",
    "simulate": "simulate",
    "profile": "profile",
    "recommend": "recommend",
    "tail": "tail",
    "rebuild": "rebuild",
    "generations": "promote",
    "promote": "promote",
    "drop": "promote",
    "upgrade": "promote",
    "backup": "backup",
    "restore": "backup",
    "doctor": "doctor",
    "dead-letters": "dead_letters",
    "bench": "bench",
    "evaluate": "evaluate",
    "chaos": "chaos",
    "config": "config",
    "schema": "schema",
    "demo": "demo",
}
"""Command -> its module in `agents.cli`, in the order of the help."""


def build(command: str | None = None) -> typer.Typer:
    """The command line; with a command's name only that one, which starts sooner."""
    app = typer.Typer(
        name="foldstream",
        help="A living profile of every shopper, folded from Kafka in real time.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        epilog="Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 3 broker or store not "
        "there, 4 a check found a difference, 130 Ctrl-C.",
    )
    app.callback()(_before_any)
    modules = [COMMANDS[command]] if command in COMMANDS else dict.fromkeys(COMMANDS.values())
    for name in modules:
        importlib.import_module(f"agents.cli.{name}").register(app)
    _reflow(app)
    return app


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"foldstream {version('foldstream')} (Python {platform.python_version()})")
        raise typer.Exit


def _before_any(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="Print it and exit."),
    ] = False,
) -> None:
    """What stands before the command. Without it typer makes a single command the whole program."""


def _reflow(app: typer.Typer) -> None:
    """Let the help fill its lines: Typer keeps the line ends of a docstring's later paragraphs."""
    for command in app.registered_commands:
        text = inspect.cleandoc(command.help or getattr(command.callback, "__doc__", None) or "")
        command.help = "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))
    for group in app.registered_groups:
        if group.typer_instance is not None:
            _reflow(group.typer_instance)


def main() -> None:
    """Run the command line; turns errors into one line and an exit code."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """Run one command in this process; returns its exit code."""
    logs.set_up("error", as_json=False)  # commands say what matters themselves; a worker sets more
    try:
        code = build(arguments[0] if arguments else None)(args=arguments, standalone_mode=False)
    except ClickException as error:
        error.show()
        return Exit.USAGE
    except (typer.Abort, KeyboardInterrupt):
        return Exit.INTERRUPTED
    except (SettingsError, UsageError, MappingError) as error:
        return _fail(error, Exit.USAGE)
    except (NothingRuns, BrokerAway, StoreAway) as error:
        return _fail(error, Exit.NOT_THERE)
    except CheckFailed as error:
        return _fail(error, Exit.DIFFERENCE)
    except (AgentsError, StreamsError, ProfilesError) as error:
        return _fail(error, Exit.FAILED)
    return code if isinstance(code, int) else Exit.DONE


def _fail(error: Exception, code: Exit) -> int:
    Console(stderr=True, highlight=False).print(f"[red]error:[/red] {error}", soft_wrap=True)
    return code


if __name__ == "__main__":
    main()
