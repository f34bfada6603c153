"""The `Dockerfile`, checked without an engine: what it copies, runs and leaves out."""

from __future__ import annotations

import fnmatch
import os
import re
import tomllib
from pathlib import Path

import pytest

from agents.__main__ import COMMANDS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def instructions() -> list[tuple[str, str]]:
    """(instruction, rest) in order, continued lines joined, comments left out."""
    text = (ROOT / "Dockerfile").read_text("utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [
        (word.upper(), rest)
        for word, _, rest in (line.strip().partition(" ") for line in joined.splitlines())
        if word
    ]


def copied(instructions: list[tuple[str, str]]) -> list[str]:
    """Sources in the checkout that the image copies."""
    return [
        source
        for word, rest in instructions
        if word == "COPY" and "--from=" not in rest
        for source in [part for part in rest.split() if not part.startswith("--")][:-1]
    ]


def test_it_starts_from_a_python_that_the_project_supports(
    instructions: list[tuple[str, str]],
) -> None:
    bases = [rest.split()[0] for word, rest in instructions if word == "FROM"]
    assert len(bases) == 2
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    least, most = re.findall(r"3\.(\d+)", project["requires-python"])
    for base in bases:
        found = re.fullmatch(r"python:3\.(\d+)-slim", base)
        assert found, base
        assert int(least) <= int(found[1]) < int(most)


def test_packages_are_installed_by_hash_from_wheels_only(
    instructions: list[tuple[str, str]],
) -> None:
    installs = [rest for word, rest in instructions if word == "RUN" and "pip install" in rest]
    assert len(installs) == 1
    assert "--require-hashes" in installs[0]
    assert "--only-binary :all:" in installs[0]
    assert "-r /requirements.txt" in installs[0]


def test_it_ends_as_a_user_that_is_not_root_and_compiles_as_that_user(
    instructions: list[tuple[str, str]],
) -> None:
    words = [word for word, _ in instructions]
    last_user = max(number for number, word in enumerate(words) if word == "USER")
    assert instructions[last_user][1] not in ("root", "0")
    warm = [n for n, (word, rest) in enumerate(instructions) if word == "RUN" and "warmup" in rest]
    assert warm
    assert min(warm) > last_user


def test_what_it_copies_is_here_and_let_in_by_dockerignore(
    instructions: list[tuple[str, str]],
) -> None:
    rules = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    allowed = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    assert "*" in rules  # everything else stays out: data, tests, .git, stack.json
    sources = copied(instructions)
    assert {"streams", "profiles", "agents"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source, rule) for rule in allowed), source


def test_it_compiles_what_folding_needs_once_the_command_is_there(
    instructions: list[tuple[str, str]],
) -> None:
    lines = [f"{word} {rest}" for word, rest in instructions]
    (warm,) = (n for n, line in enumerate(lines) if line == "RUN foldstream warmup")
    assert any("/usr/local/bin/foldstream" in line for line in lines[:warm])
    assert "warmup" in COMMANDS


def test_its_entry_point_runs_the_command_line(instructions: list[tuple[str, str]]) -> None:
    script = ROOT / "ops" / "foldstream.sh"
    assert os.access(script, os.X_OK)
    assert 'exec python -m agents "$@"' in script.read_text("utf-8")
    assert ("ENTRYPOINT", '["foldstream"]') in instructions
    assert ("CMD", '["worker"]') in instructions


def test_it_holds_no_secret(instructions: list[tuple[str, str]]) -> None:
    for word, rest in instructions:
        assert word != "ARG"
        assert not re.search(r"password|secret|token|://\S+:\S+@", rest, re.IGNORECASE), rest
