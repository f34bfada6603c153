"""Which positions of the log a process's messages cover, while some of its rows still wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping


class Covers:
    """By partition, the position up to which all that was learned here has been sent.

    >>> covers = Covers({0: 5})
    >>> covers.note(1, {0: 10}); covers.settle(oldest=1); covers.sent
    {0: 5}
    >>> covers.note(2, {0: 20}); covers.settle(oldest=2); covers.sent
    {0: 10}
    >>> covers.settle(oldest=None); covers.sent
    {0: 20}
    """

    def __init__(self, positions: Mapping[int, int]) -> None:
        """positions: of what counts as known to all."""
        self.sent = dict(positions)
        self._rounds: deque[tuple[int, dict[int, int]]] = deque()

    def note(self, round_: int, positions: Mapping[int, int]) -> None:
        """All that was learned up to these positions is pending since this round or longer."""
        self._rounds.append((round_, dict(positions)))

    def settle(self, oldest: int | None) -> None:
        """oldest: the round since which something is pending; None: nothing is."""
        while self._rounds and (oldest is None or self._rounds[0][0] < oldest):
            self.sent.update(self._rounds.popleft()[1])

    def set(self, partition: int, next_offset: int) -> None:
        """What was learned of a partition begins here: what came before is accounted for."""
        self.sent[partition] = next_offset
        for _, positions in self._rounds:
            if partition in positions:
                positions[partition] = next_offset

    def forget(self, partition: int) -> None:
        """Somebody else's partition now."""
        self.sent.pop(partition, None)
        for _, positions in self._rounds:
            positions.pop(partition, None)
