"""What shapes a generation, and what an older description means that does not say all of it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agents.errors import SettingsError
from agents.generations import (
    check_wishes,
    description_of,
    in_force,
    newest_format,
    oldest_format,
    shaped_like,
)
from agents.rebuild_into import plan
from agents.settings import Settings
from agents.store_access import fingerprint_of, fold_config_of
from profiles.store import MetaInfo
from profiles.store_generations import Generation, Standing

OLD_FINGERPRINT = "5c0f0db126e9b3f26c24a53ca3e3ad28"
"""Of the default settings, by the version before own tables."""


def settings_with(**values: Any) -> Settings:
    return Settings.model_validate(values)


def of_before(**values: Any) -> Settings:
    """What stands for a worker of a version that knew record formats 1 and 2."""
    return settings_with(newest_record_format=2, **values)


def standing_of(*generations: Generation, live: str = "g1") -> Standing:
    described = {generation.name: generation for generation in generations}
    record_format = described[live].record_format if live in described else 2
    return Standing(MetaInfo(live, "fs", 16, record_format), described)


def begun_by(settings: Settings) -> Generation:
    return description_of(settings, fingerprint_of(settings), newest_format(settings))


def test_an_old_generation_is_read_without_own_tables_and_by_its_old_fingerprint() -> None:
    old = begun_by(of_before())
    assert "own_items" not in old.settings  # the version before refuses what it does not know
    assert (old.fingerprint, old.record_format) == (OLD_FINGERPRINT, 2)
    settings = in_force(settings_with(), standing_of(old), named=False)
    assert fold_config_of(settings).shape.own_items == 0
    assert fingerprint_of(settings) == OLD_FINGERPRINT
    assert oldest_format(settings) == 1


def test_a_generation_that_nobody_described_is_an_old_one() -> None:
    settings = in_force(settings_with(), standing_of(), named=False)
    assert fingerprint_of(settings) == OLD_FINGERPRINT


def test_a_new_generation_has_own_tables_and_a_format_with_room_for_them() -> None:
    new = begun_by(settings_with(own_items=7))
    assert (new.settings["own_items"], new.record_format) == (7, 3)
    settings = in_force(settings_with(), standing_of(new), named=False)
    assert fold_config_of(settings).shape.own_items == 7
    assert fingerprint_of(settings) == new.fingerprint != OLD_FINGERPRINT
    assert oldest_format(settings) == 3
    assert fingerprint_of(settings_with(own_items=8)) != new.fingerprint


def test_own_items_asked_for_in_an_old_generation_are_refused_with_the_way_on() -> None:
    standing = standing_of(begun_by(of_before()))
    check_wishes(settings_with(), standing)
    with pytest.raises(SettingsError, match=r"own_items = 9.*own_items = 0.*rebuild --into"):
        check_wishes(settings_with(own_items=9), standing)


def test_a_rebuild_gives_an_old_generations_successor_own_tables() -> None:
    old = begun_by(of_before(history=20))
    described = plan(settings_with(), "g2", standing_of(old), [3])
    assert (described.settings["own_items"], described.settings["history"]) == (32, 20)
    assert described.record_format == 3
    assert described.fingerprint == fingerprint_of(
        shaped_like(settings_with(), described.settings, "g2")
    )


def test_beside_an_older_worker_it_is_the_promotion_that_waits() -> None:
    """`promote` refuses by the format while a worker reads less."""
    described = plan(settings_with(), "g2", standing_of(begun_by(of_before())), [3, 2])
    assert described.record_format == 3


def test_without_own_items_a_rebuild_is_in_a_format_that_older_workers_read() -> None:
    new = begun_by(settings_with())
    described = plan(settings_with(own_items=0), "g2", standing_of(new), [3, 2])
    assert "own_items" not in described.settings
    assert (described.record_format, described.fingerprint) == (2, OLD_FINGERPRINT)
    described = plan(of_before(), "g2", standing_of(new), [2])
    assert described.record_format == 2


def test_a_description_of_a_later_version_is_refused_by_name() -> None:
    later = msgspec.structs.replace(begun_by(settings_with()), settings={"moods": 3})
    with pytest.raises(SettingsError, match=r"moods.*does not know"):
        in_force(settings_with(), standing_of(later), named=False)
