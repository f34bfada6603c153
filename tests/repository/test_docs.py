"""The pages say what the code does: every setting, command, option, topic and field is there."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.main import get_command

from agents.__main__ import build
from agents.settings import NOT_SETTINGS, PREFIX, Settings, load_settings
from streams import codec, events
from streams.item_deltas import ItemDeltas
from streams.mappings.mapping import load_mapping
from streams.topics import DAY_MS, HOUR_MS, TopicSet

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])

SHARED_OPTIONS = {"--config", "--data-dir", "--kafka", "--redis", "--topic-prefix", "--json"}


def read(path: Path) -> str:
    """A page as text."""
    return path.read_text("utf-8")


def sections(text: str) -> dict[str, str]:
    """Second-level headings and what follows each."""
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def commands() -> Iterator[tuple[str, Any]]:
    """Every command that can be run, with its full name."""

    def walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        inner = getattr(command, "commands", None)
        if inner is None:
            yield " ".join(path), command
            return
        for name, child in inner.items():
            yield from walk(child, (*path, name))

    yield from walk(get_command(build()), ())


def documents(block: str) -> Iterator[Any]:
    """The JSON documents of one code block, one after the other."""
    decoder = json.JSONDecoder()
    at = 0
    while block[at:].strip():
        at += len(block[at:]) - len(block[at:].lstrip())
        document, at = decoder.raw_decode(block, at)
        yield document


def examples(section: str) -> list[bytes]:
    """The JSON examples in one section of the wire page, each as a message's value."""
    blocks = re.findall(r"```json\n(.*?)```", sections(read(DOCS / "wire.md"))[section], re.DOTALL)
    found = [json.dumps(document).encode() for block in blocks for document in documents(block)]
    assert found, f"{section}: no example"
    return found


# Settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_the_settings_page_has_each_setting_with_its_default(name: str) -> None:
    default = json.loads(load_settings(environment={}).settings.model_dump_json())[name]
    rows = [row for row in read(DOCS / "settings.md").splitlines() if row.startswith(f"| `{name}`")]
    assert len(rows) == 1
    _, _, shown, meaning, _ = rows[0].split("|")
    if default is None or default == []:
        text = "none"
    elif isinstance(default, list):
        text = ",".join(default)
    else:
        text = json.dumps(default).strip('"')
    assert shown.strip() == f"`{text}`"
    assert meaning.strip()


def test_the_settings_page_has_no_setting_that_is_gone() -> None:
    rows = re.findall(r"^\| `(\w+)`", read(DOCS / "settings.md"), re.MULTILINE)
    names = {row for row in rows if not row.startswith(PREFIX)}
    assert names == set(Settings.model_fields)
    assert {row.removeprefix(PREFIX) for row in rows} - names == NOT_SETTINGS


def test_the_example_of_a_configuration_file_is_accepted(tmp_path: Path) -> None:
    blocks = [
        block
        for page in ("settings.md", "wire.md")
        for block in re.findall(r"```toml\n(# foldstream.toml.*?)```", read(DOCS / page), re.DOTALL)
    ]
    assert len(blocks) == 2
    for block in blocks:
        file = tmp_path / "foldstream.toml"
        file.write_text(block, "utf-8")
        assert load_settings(config_file=file, environment={}).settings.kinds


# Commands ---------------------------------------------------------------------------------


def test_the_commands_page_has_a_section_for_each_command_and_no_other() -> None:
    titles = re.findall(r"^## `(.+)`$", read(DOCS / "commands.md"), re.MULTILINE)
    assert sorted(titles) == sorted(name for name, _ in commands())


def test_the_commands_page_has_every_option() -> None:
    found = sections(read(DOCS / "commands.md"))
    shared = found["Options that commands share"]
    assert all(f"`{option}`" in shared for option in SHARED_OPTIONS)
    missing = [
        f"{name} {option}"
        for name, command in commands()
        for parameter in command.params
        for option in parameter.opts
        if option.startswith("--")
        and option not in SHARED_OPTIONS | {"--help"}
        and f"`{option}`" not in found.get(f"`{name}`", "")
    ]
    assert not missing


def test_commands_and_options_in_examples_exist() -> None:
    known = dict(commands())
    first_words = {name.split()[0] for name in known}
    for page in PAGES:
        for line in re.findall(r"^    (?:\S*[/ ])?foldstream (.+)$", read(page), re.MULTILINE):
            words = line.split("#")[0].split()
            name = words[0] if words[0] in known else " ".join(words[:2])
            assert words[0] in first_words, f"{page.name}: foldstream {line}"
            options = {o for p in known[name].params for o in (*p.opts, *p.secondary_opts)}
            used = {word.split("=")[0] for word in words if word.startswith("--")}
            assert used <= options, f"{page.name}: foldstream {line}"


def test_the_mapping_in_the_commands_page_is_accepted(tmp_path: Path) -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", read(DOCS / "commands.md"), re.DOTALL)
    file = tmp_path / "articles.toml"
    file.write_text(block, "utf-8")
    assert load_mapping(str(file)).events


def test_make_targets_in_the_pages_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", read(ROOT / "Makefile"), re.MULTILINE))
    for page in PAGES:
        used = re.findall(r"(?:^    |`)make ([a-z]+)\b", read(page), re.MULTILINE)
        assert set(used) <= targets, page.name
    assert {"setup", "demo", "test", "check", "bench"} <= targets


# The wire ---------------------------------------------------------------------------------


def test_the_wire_page_has_each_topic_as_it_is_declared() -> None:
    table = sections(read(DOCS / "wire.md"))["Topics"]
    rows = {
        cells[0].strip(" `"): [cell.strip() for cell in cells]
        for row in table.splitlines()
        if row.startswith("| `")
        for cells in [row.strip("|").split("|")]
    }
    declared = TopicSet(partitions=99).all()
    assert list(rows) == [topic.name for topic in declared]
    for topic in declared:
        _, key, partitions, kept, _ = rows[topic.name]
        assert key == topic.key
        assert partitions == ("P" if topic.partitions == 99 else str(topic.partitions))
        if topic.cleanup == "compact":
            assert kept == "compacted"
        elif topic.retention_ms is None:
            assert kept == "for ever"
        else:
            amount, unit = kept.split()
            unit_ms = HOUR_MS if unit.startswith("hour") else DAY_MS
            assert int(amount) * unit_ms == topic.retention_ms


@pytest.mark.parametrize(
    "struct",
    [
        *events.INTERACTIONS,
        *events.CONTROLS,
        events.Item,
        events.Impression,
        events.RecommendRequest,
        events.RerankRequest,
        events.Recommendation,
        events.RankedItem,
        events.Reason,
        events.Stamps,
        events.ProfileChange,
        ItemDeltas,
    ],
    ids=lambda struct: struct.__name__,
)
def test_the_wire_page_has_each_field(struct: type[msgspec.Struct]) -> None:
    text = read(DOCS / "wire.md")
    for field in msgspec.structs.fields(struct):
        if field.encode_name != "context":  # free pairs that nothing reads yet
            assert f'"{field.encode_name}"' in text or f"`{field.encode_name}`" in text
    tag = struct.__struct_config__.tag
    if tag is not None:
        assert f"`{tag}`" in text


def test_the_examples_of_events_are_events() -> None:
    decoder = codec.EventCodec()
    for value in examples("Events"):
        user_id = json.loads(value)["user_id"]
        assert decoder.decode(value, user_id.encode(), []).event.user_id == user_id


@pytest.mark.parametrize(
    ("section", "decode"),
    [
        ("Catalogue", codec.decode_item),
        ("Impressions", codec.decode_impression),
        ("Requests", codec.decode_request),
        ("Recommendations", codec.decode_recommendation),
        ("Profile changes", codec.decode_change),
    ],
)
def test_the_examples_of_other_messages_are_what_they_say(section: str, decode: Any) -> None:
    for value in examples(section):
        struct = decode(value)
        fields = {field.encode_name for field in msgspec.structs.fields(struct)} | {"type"}
        written = json.loads(codec.encode(struct))
        for name, given in json.loads(value).items():
            assert name in fields
            assert written.get(name, given) == given  # a default is not written


def test_the_wire_page_has_each_reason_code() -> None:
    declared = re.findall(r"^([a-z_0-9]+)  +\S", codec.__doc__ or "", re.MULTILINE)
    assert len(declared) >= 10
    table = sections(read(DOCS / "wire.md"))["Dead letters"]
    assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == declared


# All pages --------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", read(page)):
        if not target.startswith(("http://", "https://", "#")):
            assert (page.parent / target.split("#")[0]).exists(), target


def test_decisions_have_a_number_of_their_own_and_say_why() -> None:
    pages = sorted((DOCS / "decisions").glob("*.md"))
    numbers = [page.name[:4] for page in pages]
    assert len(numbers) == len(set(numbers))
    for page in pages:
        text = read(page)
        assert text.startswith(f"# {page.name[:4]}: ")
        for part in ("**Decision.**", "**Why.**"):
            assert part in text, f"{page.name}: {part}"


def test_the_changelog_has_a_section_for_this_version_first() -> None:
    version = tomllib.loads(read(ROOT / "pyproject.toml"))["project"]["version"]
    first = re.search(r"^## (\S+)", read(ROOT / "CHANGELOG.md"), re.MULTILINE)
    assert first is not None
    assert first[1] in (version, "Unreleased")
    assert f"## {version}" in read(ROOT / "CHANGELOG.md")


def test_the_readme_shows_a_picture_and_the_two_commands() -> None:
    text = read(ROOT / "README.md")
    assert text.count("```mermaid") == 1
    assert "    make demo" in text
    assert "    make test" in text
