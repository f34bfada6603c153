"""The terms of the blend: what each simple rival says of an item for a user (docs/model.md).

Owns their names, places and formulas. A term that a shop has nothing for is 0.
"""

from __future__ import annotations

TERMS = (
    "DOT", "POPF", "POPM", "POPS", "START", "RS", "RL", "NEVER", "AGE", "LAST",
    "G_LEAF", "G_PARENT", "G_BRAND", "G_PRICE", "H_LEAF", "H_PARENT", "H_BRAND", "H_PRICE",
    "LFN", "LF", "LB", "MK", "OWN1", "OWNC", "OWNS", "OWNA", "OWNT", "QW", "QT",
)  # fmt: skip

N_TERMS = len(TERMS)

(
    DOT, POPF, POPM, POPS, START, RS, RL, NEVER, AGE, LAST,
    G_LEAF, G_PARENT, G_BRAND, G_PRICE, H_LEAF, H_PARENT, H_BRAND, H_PRICE,
    LFN, LF, LB, MK, OWN1, OWNC, OWNS, OWNA, OWNT, QW, QT,
) = range(N_TERMS)  # fmt: skip
