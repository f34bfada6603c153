"""The published schemas name every kind and its bounds."""

from __future__ import annotations

import json

from streams.schemas import schemas
from streams.topics import TopicSet


def test_every_topic_in_json_whose_messages_are_made_here_has_a_schema() -> None:
    topics = TopicSet("foldstream").all()
    suffixes = {topic.name.partition(".")[2] for topic in topics}
    assert set(schemas()) == suffixes - {"dead-letters", "item-deltas", "metrics"}


def test_schemas_are_plain_json() -> None:
    assert json.loads(json.dumps(schemas())) == schemas()


def test_an_own_kind_is_in_the_schema_of_events() -> None:
    mapping = schemas(["favourite"])["events"]["discriminator"]["mapping"]
    assert {"click", "search", "forget", "favourite"} <= set(mapping)
    assert "favourite" not in schemas()["events"]["discriminator"]["mapping"]


def test_bounds_are_in_the_schema() -> None:
    fields = schemas()["events"]["$defs"]["Click"]["properties"]
    assert fields["user_id"] == {"type": "string", "minLength": 1, "maxLength": 256}
    assert fields["ts"]["maximum"] == 4_102_444_800_000
