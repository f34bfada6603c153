"""All checks together: what is away or fails is a finding, and nothing is changed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from agents.__main__ import run_command
from agents.app import prepare
from agents.cli.common import Exit
from agents.doctor import examine as module
from agents.doctor.examine import CHECKS, away, examine
from agents.doctor.finding import Bench, Check, Finding
from agents.http.address import listen
from agents.settings import Settings
from streams.topics import TopicSet
from tests.builders import settings_of


@pytest.fixture
def settings(
    kafka: str, redis_url: str, topics: TopicSet, generation: str, tmp_path: Path
) -> Settings:
    return settings_of(kafka, redis_url, topics, generation, tmp_path)


async def test_a_new_installation_has_nothing_that_must_be_mended(settings: Settings) -> None:
    await prepare(settings)
    findings = await examine(settings)
    assert [finding for finding in findings if finding.level == "error"] == []
    assert {finding.check for finding in findings} == {"reach", *(c.name for c in CHECKS)}
    warned = {finding.finding for finding in findings if finding.level == "warning"}
    assert warned <= {"appendonly is off", "nobody is in it"}


async def test_where_no_generation_is_named_the_live_one_is_looked_at(settings: Settings) -> None:
    await prepare(settings)
    values = settings.model_dump(exclude_unset=True)
    del values["generation"]
    values["n_factors"] = settings.n_factors + 1  # of no generation: the live one's is in force
    findings = await examine(Settings.model_validate(values))
    (meta,) = [finding for finding in findings if finding.check == "meta"]
    assert (meta.level, f"generation {settings.generation}," in meta.finding) == ("ok", True)
    assert [finding for finding in findings if finding.level == "error"] == []


async def test_a_neighbour_that_is_away_leaves_the_other_checks(settings: Settings) -> None:
    with listen("127.0.0.1", 0) as bound:
        port = int(bound.getsockname()[1])
    lonely = settings.model_copy(update={"redis": f"redis://127.0.0.1:{port}/0"})
    findings = await examine(lonely)
    assert [finding.thing for finding in away(findings)] == ["store"]
    assert {"topics", "keys", "versions", "disk"} <= {finding.check for finding in findings}
    assert not {"lag", "servers"} & {finding.check for finding in findings}
    lonelier = lonely.model_copy(update={"kafka": f"127.0.0.1:{port}"})
    findings = await examine(lonelier)
    assert len(away(findings)) == 2
    assert {finding.check for finding in findings} == {"reach", "versions", "kernels", "disk"}


async def test_a_check_that_fails_or_hangs_is_a_finding(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(bench: Bench) -> list[Finding]:
        raise ZeroDivisionError("of ours")

    async def hangs(bench: Bench) -> list[Finding]:
        await asyncio.Event().wait()
        return []

    checks = (Check("fails", frozenset(), fails), Check("hangs", frozenset(), hangs), CHECKS[-1])
    monkeypatch.setattr(module, "CHECKS", checks)
    found = {finding.check: finding for finding in await examine(settings, check_s=1.0)}
    assert found["fails"].level == found["hangs"].level == "error"
    assert "of ours" in found["fails"].finding
    assert "no answer within 1 s" in found["hangs"].finding
    assert found["disk"].level in ("ok", "warning")


def test_the_exit_code_tells_mend_from_not_there(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--data-dir", str(settings.data_dir), "--topic-prefix", settings.topic_prefix]
    here = [*where, "--kafka", settings.kafka, "--redis", settings.redis]
    assert run_command(["doctor", *here, "--json"]) == Exit.DIFFERENCE  # 16 partitions by default
    findings = json.loads(capsys.readouterr().out)
    assert {"level", "check", "thing", "finding", "why", "remedy"} == set(findings[0])
    assert any("partitions is 4" in finding["finding"] for finding in findings)
    gone = [*where, "--kafka", "127.0.0.1:1", "--redis", settings.redis]
    assert run_command(["doctor", *gone]) == Exit.NOT_THERE
    shown = capsys.readouterr()
    assert "remedy" in shown.out
    assert "127.0.0.1:1" in shown.err
