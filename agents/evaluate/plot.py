"""Hit rate by position in the stream, as an SVG that needs no library."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path

import numpy as np

from agents.evaluate.judge import TOP
from agents.evaluate.protocol import Trials
from agents.evaluate.stream import Stream

WIDTH, HEIGHT, LEFT, RIGHT, ABOVE, BELOW = 900, 460, 60, 230, 40, 50

COLOURS = (
    "#d1242f", "#0969da", "#1a7f37", "#8250df", "#bf8700", "#57606a", "#0e8a8a", "#bf3989",
    "#5e4b3c", "#6e7781", "#2da44e", "#953800", "#3b5bdb", "#7a5195", "#a0522d", "#444c56",
)  # fmt: skip

WINDOWS = 40
"""Points of a line: each is the mean of a window of so much of the stream."""


def write_plot(path: Path, stream: Stream, trials: Mapping[str, Trials]) -> None:
    """Write hit rate@20 (reading `all`), a line for each model."""
    lines = {name: _points(of_model) for name, of_model in trials.items()}
    most = max((max(y for _, y in points) for points in lines.values() if points), default=1.0)
    most = max(0.05, np.ceil(most * 20) / 20)
    n = len(stream)

    def at(b: float, y: float) -> str:
        x = LEFT + (WIDTH - LEFT - RIGHT) * b / n
        return f"{x:.1f},{HEIGHT - BELOW - (HEIGHT - ABOVE - BELOW) * y / most:.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="24" font-size="15">{escape(stream.name)}: HR@{TOP} of events ranked'
        " before they are learned</text>",
    ]
    for step in range(6):
        y = most * step / 5
        x0, y0 = at(0, y).split(",")
        parts.append(
            f'<line x1="{x0}" y1="{y0}" x2="{WIDTH - RIGHT}" y2="{y0}" stroke="#d0d7de"/>'
            f'<text x="{LEFT - 8}" y="{float(y0) + 4:.1f}" text-anchor="end">{y:.2f}</text>'
        )
    for step in range(5):
        b = n * step / 4
        x0 = at(b, 0).split(",")[0]
        parts.append(
            f'<text x="{x0}" y="{HEIGHT - BELOW + 20}" text-anchor="middle">{b:,.0f}</text>'
        )
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">'
        "events</text>"
    )
    for number, (name, points) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        width = 3 if number == 0 else 1.5
        joined = " ".join(at(b, y) for b, y in points)
        parts.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="{width}" points="{joined}"/>'
        )
        level = ABOVE + 18 * number
        parts.append(
            f'<line x1="{WIDTH - RIGHT + 12}" y1="{level}" x2="{WIDTH - RIGHT + 34}" y2="{level}"'
            f' stroke="{colour}" stroke-width="{width}"/>'
            f'<text x="{WIDTH - RIGHT + 40}" y="{level + 4}">{escape(name)}</text>'
        )
    path.write_text("\n".join([*parts, "</svg>"]), encoding="utf-8")


def _points(trials: Trials) -> list[tuple[float, float]]:
    found = []
    for chunk in np.array_split(np.arange(len(trials.event)), min(WINDOWS, len(trials.event))):
        hits = trials.ranks[chunk, 0] <= TOP
        found.append((float(trials.event[chunk].mean()), float(hits.mean())))
    return found
