"""What may not be in a tracked file: this machine's paths, download addresses, secrets, bulk."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# In pieces, so that this file does not find itself.
REGISTRIES = [
    "pypi" + ".org/simple",
    "files.python" + "hosted.org",
    "repo1" + ".maven.org",
    "repo.maven" + ".apache.org",
    "registry.npm" + "js.org",
    "--index" + "-url",
    "--extra-index" + "-url",
]
SECRETS = [
    r"-----BEGIN [A-Z ]*PRIVATE" + r" KEY-----",
    r"\bAKIA" + r"[0-9A-Z]{16}\b",
    r"\bgh[pousr]_" + r"[A-Za-z0-9]{36}\b",
    r"\bxox[abpr]-" + r"[A-Za-z0-9-]{10,}",
]
LARGEST_BYTES = 10 << 20  # the demo's purchases are the largest file there is


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """Files that git tracks and that are there."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


@pytest.fixture(scope="module")
def texts(tracked: list[Path]) -> dict[str, str]:
    """Those that are text, by name."""
    found = {}
    for path in tracked:
        content = path.read_bytes()
        if b"\0" not in content[:8_192]:
            found[str(path.relative_to(ROOT))] = content.decode("utf-8")
    return found


def holding(texts: dict[str, str], pattern: str) -> list[str]:
    """Names of the texts in which a pattern is found."""
    return [name for name, text in texts.items() if re.search(pattern, text)]


def test_no_path_of_this_machine(texts: dict[str, str]) -> None:
    here = {str(ROOT), str(Path.home())}
    for path in here - {"/"}:
        assert not holding(texts, rf"(?<![\w.]){re.escape(path)}/")


def test_no_home_folder_of_anybody(texts: dict[str, str]) -> None:
    assert not holding(texts, r"(?<![\w.:/])/(home|Users)/\w")


@pytest.mark.parametrize("address", REGISTRIES)
def test_no_registry_address_so_that_a_mirror_can_be_used(
    texts: dict[str, str], address: str
) -> None:
    # The Makefile names pip's and uv's options only to keep addresses out of the lock files.
    assert not holding({k: v for k, v in texts.items() if k != "Makefile"}, re.escape(address))


@pytest.mark.parametrize("pattern", SECRETS)
def test_no_secret(texts: dict[str, str], pattern: str) -> None:
    assert not holding(texts, pattern)


def test_every_requirement_is_pinned_to_a_version_and_a_hash(texts: dict[str, str]) -> None:
    for name in ("requirements.txt", "requirements-build.txt", "requirements-dev.txt"):
        entries = re.sub(r"\\\n\s*", " ", texts[name]).splitlines()
        assert entries
        for entry in entries:
            assert re.match(r"[a-z0-9._-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", entry), entry[:80]


def test_no_file_is_large(tracked: list[Path]) -> None:
    assert not [path.name for path in tracked if path.stat().st_size > LARGEST_BYTES]


def test_only_cc0_data_is_copied_here(tracked: list[Path]) -> None:
    data = [path for path in tracked if path.relative_to(ROOT).parts[0] == "data"]
    assert {path.parent.name for path in data} == {"online-retail-2011"}
    assert "Licence: CC0" in (ROOT / "data/online-retail-2011/README.md").read_text("utf-8")


def test_scripts_are_executable_and_the_rest_is_not(tracked: list[Path]) -> None:
    for path in tracked:
        starts_itself = path.read_bytes()[:2] == b"#!"
        assert starts_itself == bool(path.stat().st_mode & 0o100), path.name
