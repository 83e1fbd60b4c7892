"""A comparison as one PNG, for a README or a paper: seeds, differences, acceptance."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ovd_agent.report.page import COLOURS
from ovd_agent.runs.comparison import LEVEL, TIE, Difference, Run, acceptance
from retrieval_index.files import write_atomically


def write_picture(
    path: Path,
    title: str,
    arms: Mapping[str, Sequence[Run]],
    differences: Mapping[str, Difference],
    baseline: str,
) -> None:
    """Every seed as a dot beside its difference to the baseline; below, α by update."""
    figure = Figure(figsize=(8.0, 3.4 + 0.34 * len(arms)), layout="constrained")
    figure.suptitle(title)
    grid = figure.add_gridspec(2, 2, height_ratios=[0.9 + 0.34 * len(arms), 2.5])
    runs = figure.add_subplot(grid[0, 0])
    _runs(runs, arms)
    _differences(figure.add_subplot(grid[0, 1], sharey=runs), arms, differences, baseline)
    _acceptance(figure.add_subplot(grid[1, :]), arms)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=150)
    write_atomically(path, image.getvalue())


def _runs(axes: Axes, arms: Mapping[str, Sequence[Run]]) -> None:
    for place, (colour, runs) in enumerate(zip(_colours(arms), arms.values(), strict=True)):
        values = [run.em for run in runs]
        axes.plot(values, [place] * len(values), "o", color=colour, alpha=0.7)
        axes.plot([sum(values) / len(values)], [place], "|", color=colour, markersize=18)
    axes.set_yticks(range(len(arms)), list(arms))
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("exact match: seeds and mean")


def _differences(
    axes: Axes,
    arms: Mapping[str, Sequence[Run]],
    differences: Mapping[str, Difference],
    baseline: str,
) -> None:
    axes.axvspan(-TIE, TIE, color="#dcdfe2")
    axes.axvline(0.0, color="#5d646d", linewidth=0.8)
    for place, (colour, name) in enumerate(zip(_colours(arms), arms, strict=True)):
        if name in differences:
            found = differences[name]
            axes.plot([found.low, found.high], [place, place], color=colour)
            axes.plot([found.mean], [place], "o", color=colour)
    axes.tick_params(labelleft=False)
    axes.set_xlabel(f"minus {baseline} ({LEVEL:.0%}; grey: tie)")


def _acceptance(axes: Axes, arms: Mapping[str, Sequence[Run]]) -> None:
    for colour, (name, runs) in zip(_colours(arms), arms.items(), strict=True):
        shares = acceptance(runs)
        if shares:  # others have nothing to accept or to reject
            axes.plot(range(1, len(shares) + 1), shares, color=colour, label=name)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("update")
    axes.set_ylabel("accepted (mean)")
    if axes.lines:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def _colours(arms: Mapping[str, Sequence[Run]]) -> list[str]:
    return [COLOURS[place % len(COLOURS)] for place in range(len(arms))]
