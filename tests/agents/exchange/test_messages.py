"""How large a message gets, and whose weights are kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from agents.exchange.ledger import KEPT_SENDERS, Ledger
from agents.exchange.messages import ITEMS, POSITIVES_BYTES, positive_bytes, to_messages
from profiles.blend import new_blend
from profiles.items import ItemTable
from profiles.learned import Positives
from profiles.lists import DEPTH
from profiles.sharing import RowChanges
from streams.item_deltas import ItemDeltas, Weights, encode_deltas
from streams.topics import MAX_MESSAGE_BYTES
from tests.agents.exchange.processes import CONFIG

BLANK = ItemDeltas("g", "s-0")


def changes_of(ids: Sequence[str]) -> RowChanges:
    n = len(ids)
    hashes = np.arange(1, n + 1, dtype=np.uint64)
    columns = {"vectors": np.ones((n, 8), np.float16), "sums": np.ones(n, np.float32)}
    return RowChanges(hashes, dict(enumerate(ids)), columns, 0)


def positives_of(n: int, n_words: int) -> Positives:
    return Positives(
        n,
        np.ones(n, np.uint64),
        np.ones((n, DEPTH), np.uint64),
        np.ones(n, np.float32),
        np.full(n, n_words, np.uint8),
        np.ones(n * n_words, np.uint64),
    )


@pytest.mark.parametrize("item_id", ["{:04}", "\N{SNOWMAN}" * 250 + "{:04}"])
def test_a_message_with_all_there_may_be_fits_the_topic(item_id: str) -> None:
    ids = [item_id.format(number) for number in range(10_000)]
    positives = positives_of(POSITIVES_BYTES // positive_bytes(8), 8)
    made = list(to_messages(BLANK, {ITEMS: changes_of(ids)}, positives, new_blend(), {0: 5}, 7))
    assert max(len(encode_deltas(message)) for message in made) < 0.75 * MAX_MESSAGE_BYTES
    told = [i for message in made for rows in message.tables for i in rows.new_ids]
    assert told == ids
    assert [message.covers for message in made] == [{}] * (len(made) - 1) + [{0: 5}]
    for message in made:
        for rows in message.tables:
            places = np.frombuffer(rows.new_at, np.int32)
            assert places.tolist() == list(range(len(rows.hashes) // 8))


def test_a_row_larger_than_a_message_goes_alone() -> None:
    made = list(
        to_messages(
            BLANK, {ITEMS: changes_of(["a", "b" * 500_000, "c"])}, positives_of(0, 0), new_blend(),
            {}, 0,
        )
    )  # fmt: skip
    assert [[i[0] for rows in message.tables for i in rows.new_ids] for message in made] == [
        ["a"], ["b"], ["c"],
    ]  # fmt: skip


def test_weights_are_kept_of_the_newest_senders() -> None:
    ledger, items, blend = Ledger("s-0"), ItemTable(CONFIG.shape, CONFIG), new_blend()
    weights = Weights(blend.theta.tobytes(), blend.n.tobytes())
    senders = [f"s-{number}" for number in range(1, KEPT_SENDERS + 50)]
    inbox = [(n, ItemDeltas("g", s, seq=1, weights=weights)) for n, s in enumerate(senders)]
    inbox.append((len(inbox), ItemDeltas("g", senders[40], seq=2, weights=weights)))
    ledger.add(inbox[:300], items, "")
    ledger.add(inbox[300:], items, "")
    assert list(ledger._weights) == [*senders[-KEPT_SENDERS + 1 :], senders[40]]
