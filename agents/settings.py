"""Settings: read once at start, checked whole, each value with its source.

A value is taken from the first that has it: a command's flag, the environment
(``FOLDSTREAM_<NAME>``), the configuration file (``foldstream.toml``), the running stack's
``stack.json`` (addresses only), the default. A misspelt name is refused, not ignored. Lower layers
receive plain values, never `Settings`.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import socket
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from agents.errors import SettingsError
from agents.flood import FloodRule
from profiles.interactions import FIRST_OWN_CODE, LEAST_WEIGHT, MAX_KINDS, MOST_WEIGHT, Kind, Kinds
from streams.addresses import without_passwords
from streams.topics import TopicSet

PREFIX = "FOLDSTREAM_"
CONFIG_FILE = "foldstream.toml"
NOT_SETTINGS = {"DATA", "CACHE", "CONFIG", "NO_SKIP"}
"""Variables with our prefix that are read elsewhere: data sets, jar cache, the file, the tests."""

SERVICE_LINK = re.compile(
    r".*_SERVICE_(HOST|PORT(_\w+)?)|.*_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?"
)
"""Names that Kubernetes makes of a Service, in every pod beside it; see `_is_service_link`."""

Role = Literal["updater", "catalogue", "scorer", "dashboard", "evaluator"]
ROLES: tuple[Role, ...] = ("updater", "catalogue", "scorer", "dashboard", "evaluator")


class KindSetting(BaseModel, extra="forbid"):
    """One of the shop's own kinds of interaction, such as ``favourite``."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")
    weight: float = Field(default=1.0, ge=LEAST_WEIGHT, le=MOST_WEIGHT)
    positive: bool = True


class Settings(BaseSettings):
    """Every setting with its unit, bounds and default; see `load_settings`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load_settings` hands over: it reads the sources itself, to name them."""
        return (init_settings,)

    # Where things are
    kafka: str = Field("127.0.0.1:9092", description="bootstrap servers, host:port,...")
    redis: str = Field("redis://127.0.0.1:6379/0", description="URL of the store")
    data_dir: Path = Field(Path(".foldstream"), description="stack, locks and ingest positions")
    host: str = Field("127.0.0.1", description="address that the dashboard listens on")
    port: int = Field(0, ge=0, le=65_535, description="port of the dashboard; 0: any free one")
    allowed_hosts: tuple[str, ...] = Field((), description="names the dashboard is known by")

    # Names in broker and store
    topic_prefix: str = Field("foldstream", pattern=r"^[a-zA-Z0-9._-]{1,64}$")
    store_prefix: str = Field("fs", pattern=r"^[a-zA-Z0-9_-]{1,32}$")
    generation: str = Field("g1", pattern=r"^[a-zA-Z0-9_-]{1,32}$")
    partitions: int = Field(16, ge=1, le=1_024, description="of events and of the profiles")
    replication: int = Field(1, ge=1, le=7, description="copies of each topic that is created")
    newest_record_format: int | None = Field(
        None, ge=1, description="read and write no newer one; to rehearse an upgrade"
    )
    worker_id: str | None = Field(None, description="stable name; default: host and a number")
    group: str = Field("foldstream", pattern=r"^[a-zA-Z0-9._-]{1,64}$")
    session_timeout_ms: int = Field(10_000, ge=6_000, le=300_000)
    broker_timeout_s: float = Field(5.0, ge=1, lt=60, description="for one answer of the broker")

    # What the worker does
    agents: tuple[Role, ...] = Field(ROLES, description="which agents run in this process")
    max_batch_events: int = Field(8_000, ge=1, le=100_000, description="events in one commit")
    buffer_events: int = Field(20_000, ge=100, description="read ahead, per partition")
    cache_users: int = Field(200_000, ge=1_000, description="profiles kept in memory, a worker")
    store_timeout_s: float = Field(2.0, gt=0, le=60)
    seen_window: int = Field(262_144, ge=1_024, le=1 << 24, description="offsets a partition")
    item_snapshot_interval_s: float = Field(10.0, ge=0.5, le=3_600)
    exchange_bytes_per_s: int = Field(
        1_000_000, ge=0, le=1_000_000_000, description="of item deltas to other processes; 0: none"
    )
    dead_letter_max_bytes: int = Field(512 * 1024, ge=1_024, le=900 * 1024)
    flood_stop: bool = Field(True, description="stop a partition that is mostly bad messages")
    flood_window: int = Field(1_000, ge=10, le=100_000, description="messages looked at")
    flood_share: float = Field(0.5, ge=0, lt=1, description="more of them bad is a flood")

    accept_gap: bool = Field(
        False, description="go on where the log lost events before they were folded; counted"
    )

    # The model
    n_factors: int = Field(64, ge=4, le=1_024)
    history: int = Field(10, ge=1, le=200, description="positive events kept per user")
    own_items: int = Field(
        32, ge=0, le=255, description="of a user's own table; 0: profiles have none"
    )
    n_recent_negatives: int = Field(8, ge=0, le=256)
    n_uniform_negatives: int = Field(8, ge=0, le=256)
    learning_rate: float = Field(0.1, gt=0, le=1)
    blend_every: int = Field(
        4, ge=0, le=1_000, description="positives a step of the blend's weights; 0: none"
    )
    popularity_half_life_s: float = Field(86_400.0, gt=0, description="of an item's count")
    profile_retention_s: float = Field(0.0, ge=0, description="0: profiles are kept for ever")
    sweep_keys_per_s: int = Field(2_000, ge=0, le=1_000_000, description="0: never sweeps")
    trials_sampling: float = Field(
        0.0, ge=0, le=1, description="share of events ranked before they are learned; 0: none"
    )
    trials_window: int = Field(2_000, ge=100, le=1_000_000, description="trials of a figure")
    kinds: tuple[KindSetting, ...] = Field((), description="the shop's own interactions")

    # Recommendations
    n_recommendations: int = Field(20, ge=1, le=1_000)
    placement: str = Field("home", min_length=1, max_length=64)
    exclude_out_of_stock: bool = True
    exclude_current: bool = Field(True, description="leave out what the user looked at last")
    exclude_bought: bool = Field(False, description="leave out what the user bought recently")
    n_reasons: int = Field(3, ge=0, le=10)
    exact_items: int = Field(
        30_000, ge=0, description="of more items, lists are made of candidates"
    )

    # Logs
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_json: bool = False

    @field_validator("kafka")
    @classmethod
    def _addresses(cls, value: str) -> str:
        for address in value.split(","):
            host, _, port = address.rpartition(":")
            if not host or not port.isdigit():
                raise ValueError("write host:port, several with commas")
        return value

    @field_validator("redis")
    @classmethod
    def _url(cls, value: str) -> str:
        if not value.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("write redis://host:port/number (rediss:// for TLS)")
        return value

    @model_validator(mode="after")
    def _kinds_fit(self) -> Self:
        if len(self.kinds) > MAX_KINDS - FIRST_OWN_CODE:
            raise ValueError(f"kinds: at most {MAX_KINDS - FIRST_OWN_CODE} of your own")
        self.kinds_table()
        return self

    def kinds_table(self) -> Kinds:
        """Built-in and own kinds, the own ones numbered in the order given."""
        return Kinds(
            Kind(kind.name, FIRST_OWN_CODE + number, kind.weight, kind.positive)
            for number, kind in enumerate(self.kinds)
        )

    def flood_rule(self) -> FloodRule | None:
        """What a flood of bad messages is; None: nothing is."""
        return FloodRule(self.flood_window, self.flood_share) if self.flood_stop else None

    def topics(self) -> TopicSet:
        """The topics by the names and counts in force."""
        return TopicSet(self.topic_prefix, self.partitions)

    def instance_id(self, number: int = 0) -> str:
        """Name of this worker in the group: `worker_id`, or host name and a number."""
        return self.worker_id or f"{socket.gethostname()}-{number}"


class LoadedSettings(BaseModel, arbitrary_types_allowed=True):
    """Settings and, for each key, where its value came from."""

    settings: Settings
    sources: dict[str, str]


def load_settings(
    flags: Mapping[str, Any] | None = None,
    config_file: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> LoadedSettings:
    """Read every source once and check the whole.

    flags: values given on the command line; None values count as not given.
    config_file: a TOML file; default ``$FOLDSTREAM_CONFIG``, then ``foldstream.toml`` if there.
    Raises SettingsError that names key, value, source and fix.
    """
    environment = os.environ if environment is None else environment
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    from_environment = _read_environment(environment)
    from_file, file_name = _read_file(config_file, environment)
    data_dir = Path(
        given.get("data_dir")
        or from_environment.get("data_dir")
        or from_file.get("data_dir", "")
        or Settings.model_fields["data_dir"].default
    )
    layers: list[tuple[str, Mapping[str, Any]]] = [
        ("command line", given),
        ("environment", from_environment),
        (file_name, from_file),
        (str(data_dir / "stack.json"), _read_stack(data_dir)),
    ]
    values: dict[str, Any] = {}
    sources = dict.fromkeys(Settings.model_fields, "default")
    for source, layer in reversed(layers):
        for key, value in layer.items():
            if key not in Settings.model_fields:
                raise SettingsError(f"{key}: no such setting (from {source}){_nearest(key)}")
            values[key] = value
            sources[key] = source
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise SettingsError(_explain(error, values, sources)) from error
    return LoadedSettings(settings=settings, sources=sources)


def _read_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    environment = {
        name: value for name, value in environment.items() if not _is_service_link(name, value)
    }
    known = {PREFIX + key.upper(): key for key in Settings.model_fields}
    for name in environment:
        if (
            name.startswith(PREFIX)
            and name not in known
            and name.removeprefix(PREFIX) not in NOT_SETTINGS
        ):
            key = name.removeprefix(PREFIX).lower()
            raise SettingsError(f"{name}: no such setting (from environment){_nearest(key)}")
    source = EnvSettingsSource(Settings, env_prefix=PREFIX)
    source.env_vars = {name.lower(): value for name, value in environment.items()}
    found: dict[str, Any] = {}
    for name, key in known.items():
        if name not in environment:
            continue
        field = Settings.model_fields[key]
        raw, _, is_complex = source.get_field_value(field, key)
        if is_complex or key in ("agents", "kinds", "allowed_hosts"):
            try:
                found[key] = json.loads(raw)
            except ValueError:
                found[key] = [part.strip() for part in str(raw).split(",") if part.strip()]
        else:
            found[key] = raw
    return found


def _is_service_link(name: str, value: str) -> bool:
    """Whether Kubernetes put this variable there for a Service named ``foldstream...``.

    Of one named just ``foldstream`` it makes ``FOLDSTREAM_PORT=tcp://10.0.0.1:80``.
    """
    return SERVICE_LINK.fullmatch(name) is not None or (
        name.endswith("_PORT") and value.startswith(("tcp://", "udp://", "sctp://"))
    )


def _read_file(path: Path | None, environment: Mapping[str, str]) -> tuple[dict[str, Any], str]:
    named = path or (
        Path(environment[PREFIX + "CONFIG"]) if PREFIX + "CONFIG" in environment else None
    )
    chosen = named or Path(CONFIG_FILE)
    if named is None and not chosen.exists():
        return {}, CONFIG_FILE
    try:
        return tomllib.loads(chosen.read_text("utf-8")), str(chosen)
    except OSError as error:
        raise SettingsError(
            f"{chosen}: cannot be read ({error.strerror}); check --config"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{chosen}: not TOML ({error}); mend that line") from error


def _read_stack(data_dir: Path) -> dict[str, Any]:
    """Addresses of the stack that runs in this data directory, if one does."""
    try:
        stack = json.loads((data_dir / "stack.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return {key: stack[key] for key in ("kafka", "redis") if key in stack}


def _nearest(key: str) -> str:
    near = difflib.get_close_matches(key, Settings.model_fields, n=1)
    return f"; did you mean {near[0]}?" if near else "; `foldstream config show` lists them"


def _explain(error: ValidationError, values: Mapping[str, Any], sources: Mapping[str, str]) -> str:
    lines = []
    for problem in error.errors():
        message = problem["msg"].removeprefix("Value error, ")
        if not problem["loc"]:  # a rule over several settings: its message names them
            lines.append(message)
            continue
        key = str(problem["loc"][0])
        where = ".".join(str(part) for part in problem["loc"])
        value = values.get(key)
        if isinstance(value, str):
            value = without_passwords(value)
        lines.append(f"{where} = {value!r} (from {sources.get(key)}): {message}")
    return "\n".join(lines)
