"""Charts as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from xml.etree.ElementTree import Element

from ovd_agent.report.page import node

WIDTH, HEIGHT = 400, 220
LEFT, RIGHT, TOP, BOTTOM = 40, 392, 22, 182
"""The plot area inside the drawing; all in SVG units."""
MOST_DOTS = 1500
SHOWN_TURNS = 4
"""More would make a page slow: of more samples every second, or third, is drawn."""


@dataclass(frozen=True, slots=True)
class Series:
    """Points (x, y) of one colour; `intervals` are their (low, high), for dots.

    A series without a name does not appear in the legend.
    """

    name: str
    points: Sequence[tuple[float, float]]
    colour: int = 0
    kind: Literal["line", "faint", "dots", "scatter"] = "line"
    intervals: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear scale from data [low, high] to drawing units [start, end]."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 2)


def badge_colour(share: float) -> str:
    """Vermilion for 0, grey for 0.5, blue for 1; white text is readable on all of it."""
    ends = ((174, 66, 0), (106, 110, 118), (0, 98, 163))
    place = min(max(share, 0.0), 1.0) * 2
    low, high = ends[min(int(place), 1)], ends[min(int(place), 1) + 1]
    part = place - min(int(place), 1)
    red, green, blue = (round(a + part * (b - a)) for a, b in zip(low, high, strict=True))
    return f"rgb({red} {green} {blue})"


def round_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` + 1 multiples of 1, 2 or 5 times a power of ten that cover [low, high]."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        pad = 0.1 * abs(low) or 0.5
        low, high = low - pad, high + pad
    rough = (high - low) / count
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = magnitude * next(each for each in (1, 2, 5, 10) if rough <= each * magnitude * 1.001)
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    return [index * step for index in range(first, last + 1)]


def curves(
    updates: Sequence[Mapping[str, Any]], evaluations: Sequence[Mapping[str, Any]]
) -> list[Element]:
    """Exact match, acceptance, trajectory scores, loss and entropy over the updates of a run, as
    small multiples."""
    last = max((line["update"] for line in (*updates, *evaluations)), default=1)
    held_out = Series(
        "held-out",
        [(each["update"], each["em"]) for each in evaluations],
        0,
        "dots",
        [(each["em_low"], each["em_high"]) for each in evaluations],
    )
    # Without student tokens (SFT) no training episode was played: its EM of 0 means nothing.
    played = [line for line in updates if line.get("student_tokens", 1)]
    charts = [
        _curve(
            "Exact match",
            "share",
            [held_out, *_smoothed("training", _of(played, "em"), 1)],
            last,
            1.0,
        ),
        _curve(
            "Acceptance α",
            "share of samples kept",
            [
                *_smoothed("accepted", _of(updates, "acceptance")),
                *_smoothed("right among them", _of(updates, "accepted_em"), 1),
            ],
            last,
            1.0,
        ),
        _scores(updates, last),
        _curve("Loss", "loss", _smoothed("", _of(updates, "loss")), last),
        _curve("Entropy", "nats per token", _smoothed("", _of(updates, "entropy")), last),
        *_where_logged(updates, last),
    ]
    note = (
        "Held-out questions are answered greedily, bars are 95% intervals; training episodes are "
        "sampled. Faint: single updates; bold: centred moving average over a tenth of the run."
    )
    return [node("div", *charts, class_="grid"), node("p", note, class_="note")]


def _where_logged(updates: Sequence[Mapping[str, Any]], last: float) -> list[Element]:
    """Entropy by turn, and how the student does against the noise of a simulated search engine."""
    found: list[Element] = []
    turns = [
        Series(f"turn {turn}", points, turn - 1)
        for turn in range(1, SHOWN_TURNS + 1)
        if (points := _of(updates, f"entropy_turn_{turn}"))
    ]
    if turns:
        found.append(_curve("Entropy by turn", "nats per token", turns, last))
    if noise := _of(updates, "search_noise"):
        series = [
            Series("noise of the search engine", noise, 2),
            Series("exact match in training", _of(updates, "em"), 1),
            Series("acceptance α", _of(updates, "acceptance"), 0),
        ]
        found.append(_curve("Against noisy search results", "share", series, last, 1.0))
    return found


def _scores(updates: Sequence[Mapping[str, Any]], last: float) -> Element:
    """S(y) of every sample, against the threshold of its update."""
    points = [(line["update"], s) for line in updates for s in line.get("trajectory_scores", [])]
    levels = max((len(line["score_histogram"]) for line in updates), default=0)
    series = [
        Series("a sample", points[:: 1 + len(points) // MOST_DOTS], 2, "scatter"),
        Series("threshold θ", _of(updates, "threshold"), 1),
    ]
    drawn = series if points else []
    return _curve("Trajectory score S(y)", "score", drawn, last, float(max(0, levels - 1)))


def histogram(updates: Sequence[Mapping[str, Any]]) -> Element:
    """How often each verbal score was given in the first and the last quarter of the updates."""
    counts = [line["score_histogram"] for line in updates if sum(line["score_histogram"])]
    if not counts:
        return node("p", "No verbal score was logged.", class_="missing")
    size = max(1, len(counts) // 4)
    parts = {"first quarter": counts[:size], "last quarter": counts[-size:]}
    if len(counts) == 1:
        parts = {"the only update": counts}
    levels = len(counts[0])
    width = math.ceil(levels / 20)
    series: list[tuple[str, list[float]]] = []
    for name, part in parts.items():
        totals = [sum(level) for level in zip(*part, strict=True)]
        binned = [sum(totals[low : low + width]) for low in range(0, levels, width)]
        series.append((name, [count / sum(totals) for count in binned]))
    chart = bar_chart(
        [_bin(low, min(low + width, levels) - 1) for low in range(0, levels, width)],
        series,
        about="Share of steps with each verbal score, early and late in training",
        x_label="verbal score",
        y_label="share of steps",
    )
    legend = [(name, colour) for colour, (name, _) in enumerate(series)]
    plural = "" if size == 1 else "s"
    note = f"The student's steps in training, {size} update{plural} in each group."
    drawn = _figure("Scores of single steps", chart, legend)
    return node("div", drawn, node("p", note, class_="note"))


def _bin(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}–{high}"


def _of(lines: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    return [(line["update"], line[key]) for line in lines if line.get(key) is not None]


def _curve(
    title: str, y_label: str, series: Sequence[Series], last: float, y_high: float = 0.0
) -> Element:
    drawn = [each for each in series if each.points]
    if not drawn:
        return _figure(title, node("p", "Nothing was logged.", class_="missing"), [])
    values = [value for each in drawn for _, value in each.points]
    about = f"{title} by update, between {min(values):.3f} and {max(values):.3f}"
    chart = line_chart(
        drawn, about=about, x_high=last, x_label="update", y_label=y_label, y_high=y_high
    )
    return _figure(title, chart, [(each.name, each.colour) for each in drawn if each.name])


def _smoothed(name: str, points: Sequence[tuple[float, float]], colour: int = 2) -> list[Series]:
    """The points, and if there are many their moving average over a tenth of the run."""
    reach = len(points) // 20
    if reach == 0:
        return [Series(name, points, colour)]
    averages: list[tuple[float, float]] = []
    for middle, (update, _) in enumerate(points):
        around = points[max(0, middle - reach) : middle + reach + 1]
        averages.append((update, sum(value for _, value in around) / len(around)))
    return [Series("", points, colour, "faint"), Series(name, averages, colour)]


def _figure(title: str, content: Element, legend: Sequence[tuple[str, int]]) -> Element:
    keys = [node("span", name, class_=f"key c{colour}") for name, colour in legend]
    return node("figure", node("figcaption", node("b", title), *keys), content)


def line_chart(
    series: Sequence[Series],
    *,
    about: str,
    x_high: float,
    x_label: str,
    y_label: str,
    y_high: float = 0.0,
) -> Element:
    """Lines over whole-numbered x from 0 to `x_high`; the y axis covers zero, `y_high` and every
    value."""
    ys = [y_high, *(y for each in series for _, y in each.points)]
    ys += [bound for each in series for interval in each.intervals for bound in interval]
    y_ticks = round_ticks(min([*ys, 0.0]), max([*ys, 0.0]))
    x = Axis(0.0, max(x_high, 1.0), LEFT + 6, RIGHT - 6)
    y = Axis(y_ticks[0], y_ticks[-1], BOTTOM, TOP)
    x_ticks = [tick for tick in round_ticks(x.low, x.high, 5) if x.low <= tick <= x.high]
    marks = [mark for each in series for mark in _marks(each, x, y)]
    return drawing(
        about,
        *y_axis(y, y_ticks, y_label),
        *x_axis([(x.at(tick), _number(tick)) for tick in x_ticks if tick % 1 == 0], x_label),
        *marks,
    )


def bar_chart(
    labels: Sequence[str],
    series: Sequence[tuple[str, Sequence[float]]],
    *,
    about: str,
    x_label: str,
    y_label: str,
) -> Element:
    """Bars from zero, one group for each label and in it one bar for each series."""
    y_ticks = round_ticks(0.0, max(value for _, values in series for value in values) or 1.0)
    y = Axis(0.0, y_ticks[-1], BOTTOM, TOP)
    slot = (RIGHT - LEFT) / len(labels)
    width = 0.8 * slot / len(series)
    bars: list[Element] = []
    for colour, (name, values) in enumerate(series):
        for place, (label, value) in enumerate(zip(labels, values, strict=True)):
            bar = node(
                "rect",
                node("title", f"{name}, {label}: {value:.3f}"),
                class_=f"bar c{colour}",
                x=round(LEFT + (place + 0.1) * slot + colour * width, 2),
                y=y.at(value),
                width=round(0.94 * width, 2),
                height=round(BOTTOM - y.at(value), 2),
            )
            bars.append(bar)
    # About 36 characters fit under the axis.
    every = math.ceil(len(labels) * max(map(len, labels)) / 36)
    ticks = [(LEFT + (place + 0.5) * slot, label) for place, label in enumerate(labels)][::every]
    return drawing(about, *y_axis(y, y_ticks, y_label), *bars, *x_axis(ticks, x_label))


def drawing(about: str, *children: Element) -> Element:
    box = f"0 0 {WIDTH} {HEIGHT}"
    return node("svg", *children, viewBox=box, role="img", aria_label=about)


def y_axis(axis: Axis, ticks: Sequence[float], label: str) -> list[Element]:
    parts = [node("text", label, x=0, y=10, class_="axis")]
    for tick in ticks:
        at = axis.at(tick)
        zero = " zero" if tick == 0 else ""
        parts.append(node("line", class_="grid" + zero, x1=LEFT, x2=RIGHT, y1=at, y2=at))
        text = node("text", _number(tick), x=LEFT - 6, y=round(at + 4, 2), text_anchor="end")
        parts.append(text)
    return parts


def x_axis(ticks: Sequence[tuple[float, str]], label: str) -> list[Element]:
    parts = [
        node("text", text, x=round(at, 2), y=BOTTOM + 16, text_anchor="middle")
        for at, text in ticks
    ]
    middle = (LEFT + RIGHT) / 2
    return [
        *parts,
        node("text", label, x=middle, y=HEIGHT - 5, text_anchor="middle", class_="axis"),
    ]


def _marks(series: Series, x: Axis, y: Axis) -> list[Element]:
    places = [(x.at(across), y.at(up)) for across, up in series.points]
    style = f"c{series.colour}"
    marks = [
        node("line", class_=f"interval {style}", x1=at, x2=at, y1=y.at(low), y2=y.at(high))
        for (at, _), (low, high) in zip(places, series.intervals)
    ]
    if len(places) > 1 and series.kind != "scatter":
        path = "M" + "L".join(f"{across} {up}" for across, up in places)
        marks.append(node("path", class_=f"{series.kind} {style}", d=path))
    if series.kind in ("dots", "scatter") or len(places) == 1:
        marks += [
            node(
                "circle",
                node("title", f"{series.name} at {_number(point[0])}: {point[1]:.3f}"),
                class_=f"dot {style}",
                cx=across,
                cy=up,
                r=2 if series.kind == "scatter" else 3.5,
            )
            for (across, up), point in zip(places, series.points, strict=True)
        ]
    return marks


def _number(value: float) -> str:
    return f"{value:.6g}".replace("-", "\N{MINUS SIGN}")
