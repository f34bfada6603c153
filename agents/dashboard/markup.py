"""HTML as text: escaped by default, with tables and small charts.

Owns the one rule that keeps user ids, titles and dead letters harmless: every value is escaped
unless it is an `Html` made here.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def h(value: object) -> Html:
    """A value as HTML; None is a dash.

    >>> h("<b>"), h(None), h(Html("<b>"))
    ('&lt;b&gt;', '–', '<b>')
    """
    if isinstance(value, Html):
        return value
    return Html("–" if value is None else html.escape(str(value), quote=True))


def tag(name: str, *content: object, **attributes: object) -> Html:
    """One element; attributes that are None are left out, ``_`` in a name is ``-``.

    >>> tag("a", "x<", href='"', class_="c", title=None)
    '<a href="&quot;" class="c">x&lt;</a>'
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{h(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{written}>{''.join(map(h, content))}</{name}>")


def join(parts: Iterable[object]) -> Html:
    """Parts after another."""
    return Html("".join(map(h, parts)))


def table(
    head: Sequence[str], rows: Sequence[Sequence[object]], numeric: Iterable[int] = (), **more: str
) -> Html:
    """A table with a header row. numeric: columns to align right, by number.

    Every cell carries its column's name, from which the style makes cards on a phone.
    """
    right = set(numeric)
    side = ["num" if number in right else None for number in range(len(head))]
    body = [
        tag(
            "tr",
            *(
                tag("td", cell, class_=side[number], data_label=head[number])
                for number, cell in enumerate(row)
            ),
        )
        for row in rows
    ]
    header = tag("tr", *(tag("th", name, class_=side[n]) for n, name in enumerate(head)))
    return tag("table", tag("thead", header), tag("tbody", *body), **more)


def badge(text: str) -> Html:
    """A state in a colour that says how it is meant; the word alone says it as well."""
    tone = "bad" if "stopped" in text else "good" if text == "running" else "warn"
    return tag("span", text, class_=f"badge {tone}")


def number(value: float | None, digits: int = 0) -> Html:
    """A number with thousands separated.

    >>> number(1234.5), number(None), number(0.25, 1)
    ('1,234', '–', '0.2')
    """
    return h(None if value is None else f"{value:,.{digits}f}")


def millis(value: float | None) -> Html:
    """A duration given in ms, short.

    >>> millis(3.14), millis(250.4), millis(12_340), millis(None), millis(5_400_000)
    ('3.1 ms', '250 ms', '12.3 s', '–', '1.5 h')
    """
    if value is None:
        return h(None)
    if value < 1_000:
        return h(f"{value:.1f} ms" if value < 10 else f"{value:.0f} ms")
    if value < 120_000:
        return h(f"{value / 1_000:.1f} s")
    return h(f"{value / 60_000:.0f} min" if value < 3_600_000 else f"{value / 3_600_000:.1f} h")


def clock(ms: int | None) -> Html:
    """A time in ms since 1970, in UTC.

    >>> clock(0), clock(None)
    ('1970-01-01 00:00:00', '–')
    """
    if ms is None:
        return h(None)
    try:
        return h(datetime.fromtimestamp(ms / 1_000, UTC).strftime("%Y-%m-%d %H:%M:%S"))
    except (ValueError, OverflowError, OSError):
        return h("no time")


CHART_WIDTH, CHART_HEIGHT = 600, 120


def chart(values: Sequence[float | None], unit: str, capacity: int, label: str) -> Html:
    """A line over time, newest at the right; gaps where there is no value. Made of numbers only.

    capacity: values that fill the width. label: what it shows, for those who can't see it.
    """
    known = [value for value in values if value is not None]
    top = nice_ceiling(max(known, default=0.0))
    step = CHART_WIDTH / max(capacity - 1, 1)
    start = CHART_WIDTH - step * (len(values) - 1)
    runs: list[list[str]] = [[]]
    for place, value in enumerate(values):
        if value is None:
            if runs[-1]:
                runs.append([])
            continue
        x, y = start + place * step, CHART_HEIGHT * (1 - value / top)
        runs[-1].append(f"{x:.1f},{y:.1f}")
    shapes: list[Html] = []
    for run in filter(None, runs):
        first, last = run[0].split(",")[0], run[-1].split(",")[0]
        area = f"{first},{CHART_HEIGHT} {' '.join(run)} {last},{CHART_HEIGHT}"
        shapes.append(tag("polygon", points=area, class_="area"))
        shapes.append(tag("polyline", points=" ".join(run), class_="line"))
    lines = [
        tag("line", x1=0, x2=CHART_WIDTH, y1=y, y2=y, class_="grid")
        for y in (0, CHART_HEIGHT // 2, CHART_HEIGHT)
    ]
    latest = known[-1] if known else None
    svg = tag(
        "svg",
        *lines,
        *shapes,
        viewBox=f"0 0 {CHART_WIDTH} {CHART_HEIGHT}",
        preserveAspectRatio="none",
        role="img",
        aria_label=f"{label}; now {'unknown' if latest is None else f'{latest:.1f}'} {unit}",
    )
    scale = tag(
        "div", *(tag("span", f"{top * share:,.10g}") for share in (1, 0.5, 0)), class_="axis"
    )
    return tag("div", scale, tag("div", svg, class_="plot"), class_="chart")


def nice_ceiling(value: float) -> float:
    """The next of 1, 2, 5 times a power of ten: scales that people read without thinking.

    >>> nice_ceiling(0), nice_ceiling(3.2), nice_ceiling(1_000), nice_ceiling(5_100)
    (1.0, 5.0, 1000.0, 10000.0)
    """
    power = 1.0
    while power * 10 < value:
        power *= 10
    return next((power * step for step in (1, 2, 5, 10) if power * step >= value), power * 10)
