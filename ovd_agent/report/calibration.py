"""The report of a calibration: how a teacher scores labelled steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

from ovd_agent.report.charts import bar_chart
from ovd_agent.report.page import node
from ovd_agent.report.page import write_page as write_html
from ovd_envs.calibration.calibrate import KindCalibration

_HEADER = (
    "kind",
    "steps",
    "good",
    "missing",
    "mean score",
    "AUC",
    "best θ",
    "rank correlation",
    "said the same again",
    "fooled",
)


def write_page(path: Path, teacher: str, setting: str, found: Sequence[KindCalibration]) -> None:
    """One HTML file, without anything from outside."""
    trusted = not any(kind.problems for kind in found)
    verdict = "can be trusted here" if trusted else "is not to be trusted yet"
    write_html(
        path,
        teacher,
        node("p", setting, class_="kicker"),
        node("h1", f"{teacher} {verdict}"),
        node("p", _LEAD, class_="lead"),
        _table(found),
        *[part for kind in found for part in _kind(kind)],
    )


_LEAD = (
    "Labelled steps of corrupted episodes. Good are: an answer that is right, or"
    " another step that the oracle puts in the top half of its scale. AUC is the chance that the"
    " good one of a good and a bad step scores higher; the best θ is the expected score that"
    " separates them best. The judge is fooled where the low score of a bad step rises to the upper"
    " half when the student writes that the step is perfect."
)


def _table(found: Sequence[KindCalibration]) -> Element:
    rows = [
        [
            kind.kind,
            str(kind.steps),
            str(kind.good),
            str(kind.missing),
            f"{kind.mean:.1f}",
            _figure(kind.auc),
            _figure(kind.threshold),
            _figure(kind.spearman),
            "-" if kind.repeated is None else f"{kind.repeated:.0%}",
            f"{kind.talked_up} of {kind.injected}",
        ]
        for kind in found
    ]
    head = node("tr", *(node("th", cell) for cell in _HEADER))
    body = [node("tr", *(node("td", cell) for cell in row)) for row in rows]
    return node("table", node("thead", head), node("tbody", *body))


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _kind(kind: KindCalibration) -> list[Element]:
    levels = [str(level) for level in range(len(kind.levels))]
    bad = [every - good for every, good in zip(kind.levels, kind.good_by_level, strict=True)]
    scores = bar_chart(
        levels,
        [("good", kind.good_by_level), ("bad", bad)],
        about=f"Scores of {kind.kind} steps, good and bad",
        x_label="score",
        y_label="steps",
    )
    shares = [
        good / every if every else 0.0
        for every, good in zip(kind.levels, kind.good_by_level, strict=True)
    ]
    reliability = bar_chart(
        levels,
        [("good", shares)],
        about=f"Share of good ones among {kind.kind} steps with each score",
        x_label="score",
        y_label="share of good steps",
    )
    keys = [node("span", name, class_=f"key c{n}") for n, name in enumerate(("good", "bad"))]
    drawn = [
        node("figure", node("figcaption", node("b", "Scores given"), *keys), scores),
        node("figure", node("figcaption", node("b", "Reliability")), reliability),
    ]
    problems = [node("p", problem, class_="wrong") for problem in kind.problems]
    fine = [] if problems else [node("p", "Nothing to object to.", class_="right")]
    title = node("h2", f"{kind.kind} steps")
    return [title, *problems, *fine, node("div", *drawn, class_="grid")]
