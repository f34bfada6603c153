"""Every value has one source, the nearest one; what is wrong is named with its way out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agents.errors import SettingsError
from agents.settings import load_settings
from agents.store_access import fold_config_of, settings_of
from profiles.shape import FoldConfig, ModelShape


def test_the_nearest_source_wins_and_is_named(tmp_path: Path) -> None:
    file = tmp_path / "shop.toml"
    file.write_text('partitions = 8\nhistory = 5\nplacement = "cart"\n')
    loaded = load_settings(
        {"history": 3, "kafka": None},
        file,
        {"FOLDSTREAM_HISTORY": "4", "FOLDSTREAM_PARTITIONS": "2", "HOME": "/"},
    )
    assert (loaded.settings.history, loaded.settings.partitions) == (3, 2)
    assert loaded.settings.placement == "cart"
    assert loaded.sources["history"] == "command line"
    assert loaded.sources["partitions"] == "environment"
    assert loaded.sources["placement"] == str(file)
    assert loaded.sources["kafka"] == "default"


def test_addresses_of_the_running_stack_come_before_the_defaults_only(tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text(
        json.dumps({"kafka": "127.0.0.1:1", "redis": "redis://127.0.0.1:2/0", "pid": 3})
    )
    loaded = load_settings({"data_dir": tmp_path}, environment={"FOLDSTREAM_REDIS": "redis://h/1"})
    assert loaded.settings.kafka == "127.0.0.1:1"
    assert loaded.sources["kafka"] == str(tmp_path / "stack.json")
    assert loaded.settings.redis == "redis://h/1"


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"FOLDSTREAM_PARTITION": "4"}, "did you mean partitions"),
        ({"FOLDSTREAM_PARTITIONS": "many"}, "partitions = 'many' (from environment)"),
        ({"FOLDSTREAM_PARTITIONS": "0"}, "partitions"),
        ({"FOLDSTREAM_KAFKA": "localhost"}, "host:port"),
        ({"FOLDSTREAM_REDIS": "localhost:6379"}, "redis://host:port"),
        ({"FOLDSTREAM_AGENTS": "updater,baker"}, "agents"),
        ({"FOLDSTREAM_KINDS": '[{"name": "click"}]'}, "click"),
        ({"FOLDSTREAM_KINDS": '[{"name": "Bad Name"}]'}, "kinds"),
        ({"FOLDSTREAM_KINDS": '[{"name": "wink", "weight": 1e-9}]'}, "kinds"),
        ({"FOLDSTREAM_KINDS": '[{"name": "wink", "weight": 1e30}]'}, "kinds"),
    ],
)
def test_a_wrong_value_is_named_with_its_source(environment: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(environment=environment)
    assert said in str(refused.value)


def test_a_refusal_doesnt_show_the_password() -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(environment={"FOLDSTREAM_REDIS": "http://shop:s3cret@store:6379"})
    assert "s3cret" not in str(refused.value)
    assert "http://shop:***@store:6379" in str(refused.value)


def test_what_kubernetes_says_of_a_service_is_no_setting() -> None:
    """A Service named `foldstream`, and one named `foldstream-store` with two named ports."""
    of_services = {
        "FOLDSTREAM_SERVICE_HOST": "10.0.0.1",
        "FOLDSTREAM_SERVICE_PORT": "80",
        "FOLDSTREAM_PORT": "tcp://10.0.0.1:80",
        "FOLDSTREAM_PORT_80_TCP": "tcp://10.0.0.1:80",
        "FOLDSTREAM_PORT_80_TCP_PROTO": "tcp",
        "FOLDSTREAM_PORT_80_TCP_PORT": "80",
        "FOLDSTREAM_PORT_80_TCP_ADDR": "10.0.0.1",
        "FOLDSTREAM_STORE_SERVICE_PORT_REDIS": "6379",
        "FOLDSTREAM_STORE_PORT": "udp://10.0.0.2:6379",
    }
    assert load_settings(environment=of_services) == load_settings(environment={})
    with pytest.raises(SettingsError, match="port"):
        load_settings(environment={"FOLDSTREAM_PORT": "10.0.0.1:80"})


def test_a_misspelt_key_of_the_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "shop.toml"
    file.write_text("partitons = 8\n")
    with pytest.raises(SettingsError, match="did you mean partitions"):
        load_settings({}, file, {})


@pytest.mark.parametrize("content", ["partitions = ", "\xff"])
def test_a_file_that_is_no_toml_is_refused_by_name(tmp_path: Path, content: str) -> None:
    file = tmp_path / "shop.toml"
    file.write_text(content, "latin-1")
    with pytest.raises(SettingsError, match=r"shop\.toml"):
        load_settings({}, file, {})


def test_a_named_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.toml"):
        load_settings({}, None, {"FOLDSTREAM_CONFIG": str(tmp_path / "nowhere.toml")})


def test_lists_can_be_written_as_json_or_with_commas() -> None:
    for written in ('["updater", "scorer"]', "updater, scorer"):
        settings = load_settings(environment={"FOLDSTREAM_AGENTS": written}).settings
        assert settings.agents == ("updater", "scorer")


def test_own_kinds_are_numbered_behind_the_built_in_ones() -> None:
    kinds = '[{"name": "favourite", "weight": 0.5}, {"name": "skip", "positive": false}]'
    table = load_settings(environment={"FOLDSTREAM_KINDS": kinds}).settings.kinds_table()
    assert table["skip"].code == table["favourite"].code + 1 > table["search"].code
    assert (table["favourite"].weight, table["skip"].positive) == (0.5, False)


def test_the_settings_of_a_fold_make_that_fold() -> None:
    config = FoldConfig(
        shape=ModelShape(n_factors=16, history=4, own_items=7),
        n_recent=3,
        n_uniform=5,
        rate=0.2,
        blend_every=9,
        popularity_half_life_s=77.0,
        retention_ms=5_000,
        n_seen_slots=4_096,
    )
    settings = load_settings(settings_of(config), environment={}).settings
    assert fold_config_of(settings) == config
