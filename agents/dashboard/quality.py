"""The panel of live test-then-learn: hit rate, MRR and NDCG beside popularity and item-kNN."""

from __future__ import annotations

from agents.dashboard.markup import Html, join, table, tag
from agents.windows import Window


def quality_table(window: Window | None) -> Html:
    """The window's figures by model, then hit rates by slice, and the newest break."""
    if window is None:
        return tag("p", "No trials: set trials_sampling above 0 to measure.", class_="empty")
    slices = list(window.slices)
    head = ["", "HR@10", "HR@20", "MRR@20", "NDCG@10", *slices]
    rows = [
        [
            tag("b", name),
            f"{f.hr10:.3f}",
            f"{f.hr20:.3f} ±{f.se['hr@20']:.3f}",
            f"{f.mrr20:.3f}",
            f"{f.ndcg10:.3f}",
            *(f"{window.slices[one][name].hr20:.3f}" for one in slices),
        ]
        for name, f in window.models.items()
    ]
    note = f"{window.n:,} events ranked before they were learned; coverage {window.coverage:.3f}"
    if window.breaks:
        last = window.breaks[-1]
        note += f"; last break: {last.model} {last.before:.3f} to {last.after:.3f}"
    return join([table(head, rows, numeric=range(1, 5 + len(slices))), tag("small", note)])
