"""Mapping files are read strictly, and the right one is found by a file's header."""

from __future__ import annotations

from pathlib import Path

import pytest

from streams.errors import MappingError
from streams.mappings.mapping import detect_mapping, load_mapping, parse_mapping, ready_mappings

PAGES = """
header = ["user", "page", "at"]
[[events]]
type = { value = "click" }
user_id = "user"
item_id = "page"
ts = "at"
"""


def test_the_four_sets_and_the_catalogue_have_ready_mappings() -> None:
    assert set(ready_mappings()) >= {
        "yoochoose",
        "online-retail",
        "online-retail-items",
        "rees46",
        "bestbuy",
    }


def test_a_misspelt_key_is_refused_by_name() -> None:
    with pytest.raises(MappingError, match="delimeter"):
        parse_mapping('delimeter = ";"\n' + PAGES, "mine")


def test_a_mapping_that_gives_nothing_is_refused() -> None:
    with pytest.raises(MappingError, match="at least one"):
        parse_mapping('header = ["a"]', "mine")


def test_text_that_is_no_toml_is_refused_with_its_line() -> None:
    with pytest.raises(MappingError, match="line 1"):
        parse_mapping("header columns", "mine")


def test_an_unknown_name_lists_the_ready_ones() -> None:
    with pytest.raises(MappingError, match=r"ready are .*yoochoose"):
        load_mapping("yochoose")


def test_a_mapping_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MappingError, match=r"mine\.toml: cannot be read"):
        load_mapping(str(tmp_path / "mine.toml"))


def test_of_several_fitting_mappings_the_longest_header_wins() -> None:
    columns = ["ts_ms", "session_id", "item_id", "part"]
    assert detect_mapping(columns, "csv", "f").name == "yoochoose"


def test_a_header_without_a_mapping_shows_the_columns_and_the_way_out() -> None:
    with pytest.raises(MappingError, match=r"columns a, b; give --mapping NAME"):
        detect_mapping(["a", "b"], "csv", "f")
