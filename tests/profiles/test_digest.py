"""The facts digest: order-free, and different for any difference."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from profiles.digest import FactsDigest, facts_digest
from profiles.profile import HistoryEntry, Profile
from profiles.record import encode_profile, facts_of
from profiles.shape import ModelShape

PROFILES = st.dictionaries(st.text(max_size=5), st.binary(max_size=5), max_size=20)


def digest_of(pairs) -> FactsDigest:
    """The digest of pairs in this order."""
    digest = FactsDigest()
    for user_id, facts in pairs:
        digest.add(user_id, facts)
    return digest


@given(PROFILES, st.randoms(use_true_random=False))
def test_order_changes_nothing(profiles: dict[str, bytes], draw: random.Random):
    pairs = list(profiles.items())
    draw.shuffle(pairs)
    assert digest_of(pairs) == digest_of(profiles.items())


@given(PROFILES, PROFILES)
def test_two_sets_of_profiles_agree_only_when_equal(a: dict[str, bytes], b: dict[str, bytes]):
    assert (digest_of(a.items()).hex == digest_of(b.items()).hex) == (a == b)


def test_the_border_between_id_and_facts_counts():
    assert digest_of([("a", b"bc")]) != digest_of([("ab", b"c")])


def test_a_profile_given_twice_shows():
    assert digest_of([("a", b"x")] * 2).hex != FactsDigest().hex


async def test_only_facts_are_compared():
    async def records(model: bytes):
        yield "u1", b"fact" + model

    def facts_of(record: bytes) -> bytes:
        return record[:4]

    assert await facts_digest(records(b"1"), facts_of) == await facts_digest(
        records(b"2"), facts_of
    )


def test_the_digest_does_not_see_the_format_of_a_record() -> None:
    """Half converted or not: `rebuild --check` compares the same facts."""
    shape = ModelShape(n_factors=2, own_items=0)
    profiles = {
        f"u{n}": Profile(
            first_ms=1000 + n,
            last_ms=2000 + n,
            last_offset=n,
            n_by_kind={0: n + 1},
            history=[HistoryEntry(n + 1, 1500, 0.25, 0)],
        )
        for n in range(4)
    }
    digests = []
    for formats in ([1, 1, 1, 1], [2, 2, 2, 2], [3, 2, 1, 3]):
        digest = FactsDigest()
        for (user_id, profile), record_format in zip(profiles.items(), formats, strict=True):
            digest.add(user_id, facts_of(encode_profile(profile, shape, record_format)))
        digests.append(digest.hex)
    assert len(set(digests)) == 1
    profiles["u0"].history[0].weight = 0.5
    digest = FactsDigest()
    for user_id, profile in profiles.items():
        digest.add(user_id, facts_of(encode_profile(profile, shape)))
    assert digest.hex not in digests


def test_the_digest_of_a_generation_without_own_tables_is_that_of_the_versions_before() -> None:
    """Taken with the version that had no own tables: old digests can still be compared."""
    shape, digest = ModelShape(n_factors=2, own_items=0), FactsDigest()
    history = [HistoryEntry(7, 1500, 0.25, 0)]
    profile = Profile(1000, 2000, 3, {0: 1, 6: 1}, history, pending=[9], pending_ms=1900)
    digest.add("u1", facts_of(encode_profile(profile, shape)))
    assert digest.hex == "7a826f31b2aca4a859f78ac9c3f72a6a"
