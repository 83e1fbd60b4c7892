"""The report of a comparison: every seed as a dot, differences with intervals, the ledgers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

from ovd_agent.report.charts import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    Axis,
    Series,
    drawing,
    line_chart,
    x_axis,
    y_axis,
)
from ovd_agent.report.page import COLOURS, node
from ovd_agent.report.page import write_page as write_html
from ovd_agent.runs.comparison import LEDGER, LEVEL, TIE, Arms, Difference, acceptance

Differences = Mapping[str, Difference]


def write_page(path: Path, title: str, arms: Arms, differences: Differences, baseline: str) -> None:
    """One HTML file, without anything from outside."""
    write_html(
        path,
        title,
        node("h1", title),
        node("h2", "Exact match after training, every seed a dot"),
        node("figure", _dots(arms)),
        node("h2", f"Difference to {baseline}, same seeds and questions"),
        _differences(arms, differences, baseline),
        node("p", _legend(), class_="note"),
        node("h2", "Accepted, update by update (mean over seeds)"),
        node("figure", node("figcaption", *_keys(arms)), _acceptance(arms)),
        node("h2", "What it took (mean of a run)"),
        _ledger(arms),
    )


def _legend() -> str:
    return (
        f"Intervals are {LEVEL:.0%} intervals of Student's t over the paired seeds, on these"
        " questions; the last column is a bootstrap over the questions. Arms tie only where the"
        f" interval lies within ±{TIE}; where it does not, and contains zero, or where there are"
        " fewer than three seeds, nothing is decided. A run collapsed if it ended below 0.05, or"
        " below half of its best evaluation."
    )


def _dots(arms: Arms) -> Element:
    y = Axis(0.0, 1.0, BOTTOM, TOP)
    slot = (RIGHT - LEFT) / len(arms)
    marks: list[Element] = []
    ticks: list[tuple[float, str]] = []
    for place, (name, runs) in enumerate(arms.items()):
        middle = LEFT + (place + 0.5) * slot
        ticks.append((middle, name))
        for number, run in enumerate(runs):
            shift = (number - (len(runs) - 1) / 2) * min(12.0, slot / (len(runs) + 1))
            about = node("title", f"{name}, seed {run.seed}: {run.em:.3f}")
            at = {"cx": round(middle + shift, 2), "cy": y.at(run.em), "r": 4}
            marks.append(node("circle", about, class_=f"dot c{place % len(COLOURS)}", **at))
    axis = y_axis(y, [0.0, 0.25, 0.5, 0.75, 1.0], "exact match")
    return drawing("Exact match of every run", *axis, *x_axis(ticks, "arm"), *marks)


def _keys(arms: Arms) -> list[Element]:
    return [
        node("span", name, class_=f"key c{place % len(COLOURS)}") for place, name in enumerate(arms)
    ]


def _acceptance(arms: Arms) -> Element:
    series: list[Series] = []
    for place, (name, runs) in enumerate(arms.items()):
        points = list(enumerate(acceptance(runs), start=1))
        series.append(Series(name, points, place % len(COLOURS)))
    last = max((len(each.points) for each in series), default=1)
    return line_chart(
        series, about="Acceptance by update", x_high=last, x_label="update", y_label="accepted"
    )


def _differences(arms: Arms, differences: Differences, baseline: str) -> Element:
    header = ("arm", "seeds", "mean EM", "collapsed", f"minus {baseline}", "interval", "verdict")
    header += ("over questions",)
    rows: list[Sequence[str]] = []
    for name, runs in arms.items():
        mean = sum(run.em for run in runs) / len(runs)
        collapsed = sum(run.collapsed for run in runs)
        cells = [name, str(len(runs)), f"{mean:.3f}", f"{collapsed} of {len(runs)}"]
        if name in differences:
            found = differences[name]
            interval = f"{found.low:+.3f} to {found.high:+.3f}"
            cells += [f"{found.mean:+.3f}", interval, found.verdict]
            if found.questions is not None:
                cells.append(f"{found.questions[0]:+.3f} to {found.questions[1]:+.3f}")
        rows.append(cells + [""] * (len(header) - len(cells)))
    return _table(header, rows)


def _ledger(arms: Arms) -> Element:
    def mean(name: str, key: str) -> str:
        values = [run.ledger.get(key, 0.0) for run in arms[name]]
        return f"{sum(values) / len(values):,.0f}"

    rows = [[name, *(mean(name, key) for key in LEDGER)] for name in arms]
    return _table(["arm", *(key.replace("_", " ") for key in LEDGER)], rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Element:
    head = node("tr", *(node("th", cell) for cell in header))
    body = [node("tr", *(node("td", cell) for cell in row)) for row in rows]
    return node("table", node("thead", head), node("tbody", *body))
