"""The `Dockerfile`, checked without an engine: what it copies, runs and leaves out."""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
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
    installs = [
        command
        for word, rest in instructions
        if word == "RUN"
        for command in rest.split("&&")
        if "pip install" in command
    ]
    locks = [command for command in installs if " -r " in command]
    for command, lock in zip(locks, ("/requirements.txt", "/requirements-build.txt"), strict=True):
        assert "--require-hashes --only-binary :all:" in command
        assert command.rstrip().endswith(f"-r {lock}")
    (ours,) = (command for command in installs if " -r " not in command)
    assert "--no-deps --no-index /dist/foldstream-" in ours


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
    assert "COPY --from=build /venv /venv" in lines[:warm]
    assert "warmup" in COMMANDS


@pytest.fixture(scope="module")
def wheel(
    instructions: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> zipfile.ZipFile:
    """Our wheel, made as the image makes it, of the files that the image copies."""
    folder = tmp_path_factory.mktemp("wheel")
    for source in set(copied(instructions)) - {"requirements.txt", "requirements-build.txt"}:
        if (ROOT / source).is_dir():
            leave_out = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / source, folder / "src" / source, ignore=leave_out)
        else:
            (folder / "src").mkdir(exist_ok=True)
            shutil.copy(ROOT / source, folder / "src")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "wheel"]
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([*pip, *options, str(folder / "src")], check=True, timeout=120)
    (built,) = folder.glob("foldstream-*.whl")
    return zipfile.ZipFile(built)


def test_its_wheel_has_every_file_of_the_packages(wheel: zipfile.ZipFile) -> None:
    tracked = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "streams", "profiles", "agents"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert set(tracked) <= set(wheel.namelist())


def test_its_wheel_brings_the_command_and_the_version(wheel: zipfile.ZipFile) -> None:
    """`foldstream worker` tells others its version, so there must be one to tell."""
    (info,) = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert info == f"foldstream-{project['version']}.dist-info"
    scripts = wheel.read(f"{info}/entry_points.txt").decode()
    assert "foldstream = agents.__main__:main" in scripts


def test_its_entry_point_runs_the_command_line(instructions: list[tuple[str, str]]) -> None:
    assert ("ENTRYPOINT", '["foldstream"]') in instructions
    assert ("CMD", '["worker"]') in instructions


def test_it_holds_no_secret(instructions: list[tuple[str, str]]) -> None:
    for word, rest in instructions:
        assert word != "ARG"
        assert not re.search(r"password|secret|token|://\S+:\S+@", rest, re.IGNORECASE), rest
