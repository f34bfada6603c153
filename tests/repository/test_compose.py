"""`docker-compose.yml` and what it mounts, checked without an engine."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import compose_spec
import pytest
import yaml
from prometheus_client import generate_latest

from agents.metrics import Metrics
from agents.settings import load_settings

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text("utf-8")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The file as plain data."""
    return yaml.safe_load(TEXT)


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Its services by name."""
    return compose["services"]


def declared_metrics() -> set[str]:
    """Names of all samples that a worker's metrics page can hold."""
    text = generate_latest(Metrics().registry).decode()
    names = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE):
        names |= (
            {name} if kind != "histogram" else {f"{name}_{s}" for s in ("bucket", "sum", "count")}
        )
    return names


def metrics_in(text: str) -> set[str]:
    """Names of ours in a text, without parts of longer words."""
    return set(re.findall(r"\bfoldstream_[a-z_]+\b", text))


def test_the_file_follows_the_compose_specification() -> None:
    parsed = compose_spec.PyCompose.from_yaml(TEXT)
    assert set(parsed.service_names()) == {"kafka", "redis", "worker", "prometheus", "grafana"}


def test_a_misspelt_key_would_be_refused() -> None:
    with pytest.raises(ValueError, match="depend_on"):
        compose_spec.PyCompose.from_yaml(TEXT.replace("depends_on:", "depend_on:"))


def test_what_a_service_depends_on_is_there_and_has_the_health_check_it_waits_for(
    services: dict[str, dict[str, Any]],
) -> None:
    for name, service in services.items():
        wanted = service.get("depends_on", {})
        for other in wanted:
            assert other in services, f"{name} depends on {other}"
            if isinstance(wanted, dict) and wanted[other]["condition"] == "service_healthy":
                assert "healthcheck" in services[other]


def test_every_service_is_pinned_watched_and_started_again(
    services: dict[str, dict[str, Any]],
) -> None:
    for name, service in services.items():
        assert re.search(r":v?\d+\.\d+", service["image"]), f"{name}: no version"
        assert service["healthcheck"]["test"], name
        assert service["restart"] == "unless-stopped", name


def test_named_volumes_are_declared_and_mounted_files_are_here(
    compose: dict[str, Any], services: dict[str, dict[str, Any]]
) -> None:
    used = set()
    for service in services.values():
        for volume in service.get("volumes", []):
            source, _, rest = volume.partition(":")
            if source.startswith("./"):
                assert (ROOT / source).is_file(), source
                assert rest.endswith(":ro"), f"{source} could be written from the container"
            else:
                used.add(source)
    assert used == set(compose["volumes"])


def test_ports_are_published_on_the_loopback_only(services: dict[str, dict[str, Any]]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_worker_gets_settings_that_exist_and_only_it_listens_everywhere(
    services: dict[str, dict[str, Any]],
) -> None:
    environment = {key: str(value) for key, value in services["worker"]["environment"].items()}
    settings = load_settings(environment=environment).settings
    assert settings.host == "0.0.0.0"
    assert settings.kafka.split(":")[0] in services
    assert "redis://redis:" in settings.redis
    assert TEXT.count("0.0.0.0") == 1


def test_health_check_and_scrape_ask_the_port_that_the_worker_listens_on(
    services: dict[str, dict[str, Any]],
) -> None:
    port = str(services["worker"]["environment"]["FOLDSTREAM_PORT"])
    assert f"127.0.0.1:{port}/readyz" in services["worker"]["healthcheck"]["test"][-1]
    prometheus = yaml.safe_load((ROOT / "ops/prometheus.yml").read_text("utf-8"))
    targets = [
        target
        for job in prometheus["scrape_configs"]
        for static in job["static_configs"]
        for target in static["targets"]
    ]
    assert targets == [f"worker:{port}"]


def test_the_store_keeps_what_it_was_given(services: dict[str, dict[str, Any]]) -> None:
    command = services["redis"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"


def test_no_password_or_token_is_written_down(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        for key in service.get("environment", {}):
            assert not re.search(r"PASSWORD|SECRET|TOKEN|API_KEY", key), f"{name}: {key}"


def test_the_grafana_dashboard_is_provisioned_and_asks_for_metrics_we_have() -> None:
    ops = ROOT / "ops" / "grafana"
    dashboard = json.loads((ops / "foldstream.json").read_text("utf-8"))
    source = yaml.safe_load((ops / "datasource.yml").read_text("utf-8"))["datasources"][0]
    provider = yaml.safe_load((ops / "dashboards.yml").read_text("utf-8"))["providers"][0]
    assert f":{provider['options']['path']}/foldstream.json:ro" in TEXT
    declared = declared_metrics()
    for panel in dashboard["panels"]:
        assert panel["datasource"]["uid"] == source["uid"]
        for target in panel["targets"]:
            assert metrics_in(target["expr"])
            assert metrics_in(target["expr"]) <= declared, panel["title"]


def test_the_dashboard_shows_every_metric_that_people_act_on() -> None:
    text = (ROOT / "ops/grafana/foldstream.json").read_text("utf-8")
    shown = metrics_in(text)
    # `_sum` and `_count` of histograms come with their buckets; `_created` is of no use.
    declared = {name for name in declared_metrics() if name.startswith("foldstream_")}
    wanted = {n for n in declared if not n.endswith(("_sum", "_count", "_created"))}
    unseen = wanted - shown - {"foldstream_item_snapshots_total"}  # its age is shown
    assert not unseen


def test_the_alarms_are_mounted_and_ask_for_metrics_we_have() -> None:
    prometheus = yaml.safe_load((ROOT / "ops/prometheus.yml").read_text("utf-8"))
    for name in prometheus["rule_files"]:
        assert f"./ops/{name}:/etc/prometheus/{name}:ro" in TEXT
        groups = yaml.safe_load((ROOT / "ops" / name).read_text("utf-8"))["groups"]
        for rule in (rule for group in groups for rule in group["rules"]):
            assert metrics_in(rule["expr"]) <= declared_metrics(), rule["alert"]
            assert rule["annotations"]["summary"]


def test_the_docs_name_only_metrics_that_exist() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        unknown = metrics_in(page.read_text("utf-8")) - declared_metrics() - {"foldstream_client"}
        assert not unknown, page.name
