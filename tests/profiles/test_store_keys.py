"""Keys: one slot for a partition, an even spread, nothing that a name can break."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot as redis_key_slot

from profiles.store_keys import Keys, key_slot, partition_tag, partition_tags


@given(st.binary(max_size=40))
def test_slots_agree_with_the_client_library(key):
    assert key_slot(key) == redis_key_slot(key)


@given(st.text(alphabet="ab{}", max_size=12).map(str.encode))
def test_braces_are_read_as_the_protocol_says(key):
    assert key_slot(key) == redis_key_slot(key)


@pytest.mark.parametrize("n_partitions", [1, 2, 3, 16, 100, 1024])
def test_every_tag_lies_in_its_share_of_the_slots(n_partitions):
    tags = partition_tags(n_partitions)
    assert len(set(tags)) == n_partitions
    for p, tag in enumerate(tags):
        low, high = p * 16384 / n_partitions, (p + 1) * 16384 / n_partitions
        assert low <= key_slot(tag.encode()) < high
        earlier = (f"p-{n}" for n in range(int(tag[2:])))
        assert not any(low <= key_slot(name.encode()) < high for name in earlier)


def test_tags_never_change():
    """They are in the keys of every store there is."""
    assert [partition_tag(p, 16) for p in (0, 1, 7, 15)] == ["p-21", "p-10", "p-0", "p-2"]


@given(st.text(max_size=30))
def test_a_user_id_never_moves_the_slot(user_id):
    keys = Keys("fs", "g1", 16)
    assert key_slot(keys.record(7, user_id)) == keys.slot[7]


@pytest.mark.parametrize("name", ["", "a*b", "a{b}", "a:b", "a b", "ü", "x" * 65, "a\n"])
def test_a_name_that_would_break_keys_is_refused(name):
    with pytest.raises(ValueError, match="generation"):
        Keys("fs", name, 16)
    with pytest.raises(ValueError, match="prefix"):
        Keys(name, "g1", 16)


@pytest.mark.parametrize("n_partitions", [0, -1, 5000])
def test_a_partition_count_out_of_range_is_refused(n_partitions):
    with pytest.raises(ValueError, match="1 to 4096"):
        Keys("fs", "g1", n_partitions)


def test_keys_are_spelled_as_documented():
    keys = Keys("fs", "g1", 16)
    assert keys.meta == b"fs:meta"
    assert keys.checkpoint[7] == b"fs:g1:{p-0}:ckpt"
    assert keys.seen[7] == b"fs:g1:{p-0}:seen"
    assert keys.outbox[7] == b"fs:g1:{p-0}:outbox"
    assert keys.record(7, "a}b") == b"fs:g1:{p-0}:u:a}b"
    assert keys.manifest == b"fs:g1:{p-21}:items-manifest"
    assert keys.chunk(3, "1-ab-2") == b"fs:g1:items:3:1-ab-2"
