"""A run as one self-contained HTML page: numbers, curves, and episodes before and after."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from ovd_agent.report.charts import badge_colour, curves, histogram
from ovd_agent.report.page import node, write_page
from ovd_agent.runs.folder import FinishedRun, read_run
from ovd_envs.episode import Episode, Turn, VerbalScore

REPORT_FILE = "report.html"
NOTHING = "\N{EM DASH}"

Record = dict[str, Any]


def write_report(folder: Path) -> Path:
    """Write report.html, atomically, into the folder of a finished run; return its path.

    Raises OptionError when the run is not finished, or a file of it is damaged.
    """
    run, target = read_run(folder), folder / REPORT_FILE
    write_page(target, _title(run), *_content(run))
    return target


def _title(run: FinishedRun) -> str:
    summary = run.summary
    return f"{str(summary['algorithm']).upper()} on {summary['env']}, seed {summary['seed']}"


def _content(run: FinishedRun) -> list[Element]:
    kicker = node("p", "On-policy Verbal Distillation, report of a run", class_="kicker")
    return [
        node("header", kicker, node("h1", _title(run)), _story(run)),
        _headline(run),
        _section("By difficulty", *_difficulty(run)),
        _section("During training", *curves(run.updates, run.evaluations)),
        node(
            "div",
            _section("What the teacher said", histogram(run.updates)),
            _section("Where the time went", *_seconds(run)),
            class_="grid",
        ),
        *_rejections(run),
        _section("Episodes before and after", *_episodes(run)),
        _section("Terms", _glossary()),
        _footer(run),
    ]


def _section(title: str, *children: Element) -> Element:
    return node("section", node("h2", title), *children)


def _missing(what: str) -> Element:
    return node("p", what, class_="missing")


def _story(run: FinishedRun) -> Element:
    text = f"{_plural(len(run.updates), 'update')} of training"
    if len(run.evaluations) < 2:
        return node("p", f"{text}; not evaluated both before and after.", class_="lead")
    first, last = run.evaluations[0], run.evaluations[-1]
    gained = sum(_right(after) and not _right(before) for before, after in run.pairs)
    lost = sum(_right(before) and not _right(after) for before, after in run.pairs)
    text = (
        f"After {text} the student answers {last['em']:.1%} of {last['count']} held-out "
        f"questions exactly, {first['em']:.1%} before. {gained} went from wrong to right, "
        f"{lost} from right to wrong."
    )
    return node("p", text, class_="lead")


def _headline(run: FinishedRun) -> Element:
    summary, evaluations = run.summary, run.evaluations
    accepted = [line["acceptance"] for line in run.updates if line.get("acceptance") is not None]
    tiles = [
        _tile(
            "Held-out exact match",
            _arrow([f"{each['em']:.3f}" for each in _ends(evaluations)]),
            ", ".join(
                f"{name}\N{NO-BREAK SPACE}{_interval(each)}"
                for name, each in zip(("before", "after"), _ends(evaluations))
            ),
        ),
        _tile(
            "Acceptance α, first to last update",
            _arrow([f"{each:.3f}" for each in _ends(accepted)]),
            _quarters(accepted) if accepted else "none was logged: no sample was up for rejection",
        ),
        _tile("Updates", f"{summary['updates']:,}", _plural(len(evaluations), "evaluation")),
        _tile("Duration", f"{summary['seconds']:,.0f} s", _per_update(run)),
        _tile("Student tokens", f"{summary['student_tokens']:,}", "sampled in training"),
        _tile("Teacher tokens", f"{summary['teacher_tokens']:,}", "in demonstrations"),
    ]
    return node("dl", *tiles, class_="tiles")


def _tile(name: str, value: str, note: str) -> Element:
    return node("div", node("dt", name), node("dd", value), node("dd", note, class_="note"))


def _ends(values: Sequence[Any]) -> list[Any]:
    return [values[0], values[-1]] if len(values) > 1 else list(values)


def _arrow(values: Sequence[str]) -> str:
    return " \N{RIGHTWARDS ARROW} ".join(values) or NOTHING


def _interval(record: Record) -> str:
    return f"[{record['em_low']:.3f},\N{NO-BREAK SPACE}{record['em_high']:.3f}]"


def _quarters(values: Sequence[float]) -> str:
    size = max(1, len(values) // 4)
    early, late = sum(values[:size]) / size, sum(values[-size:]) / size
    return f"mean of the first quarter {early:.3f}, of the last {late:.3f}"


def _per_update(run: FinishedRun) -> str:
    if not run.updates:
        return "no update was made"
    total = _updating(run)
    resumed = ", counted since the last resume" if total > run.summary["seconds"] else ""
    return f"{total / len(run.updates):.1f} s an update{resumed}"


def _updating(run: FinishedRun) -> float:
    return sum(line["seconds"]["total"] for line in run.updates)


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _difficulty(run: FinishedRun) -> list[Element]:
    if not run.evaluations:
        return [_missing("No held-out evaluation was logged.")]
    first, *others = _ends(run.evaluations)
    last = others[0] if others else None
    rows = [
        (hop, row, last["per_hop"].get(hop) if last else None)
        for hop, row in first["per_hop"].items()
    ]
    table = _table(
        ["Steps", "EM before", "EM after", "Change", "F1 before", "F1 after", "Questions"],
        [_difficulty_row(*row) for row in [*rows, ("all", first, last)]],
    )
    note = "Greedy answers to held-out questions; 95% Wilson intervals in brackets."
    if last is None:
        note += " There was only one evaluation: nothing to compare it with."
    return [table, node("p", note, class_="note")]


def _difficulty_row(name: str, before: Record, after: Record | None) -> list[Element | str]:
    f1, count = f"{before['f1']:.3f}", str(before["count"])
    if after is None:
        return [name, _em(before), NOTHING, NOTHING, f1, NOTHING, count]
    change = f"{after['em'] - before['em']:+.3f}".replace("-", "\N{MINUS SIGN}")
    return [name, _em(before), _em(after), change, f1, f"{after['f1']:.3f}", count]


def _em(record: Record) -> Element:
    return node("span", f"{record['em']:.3f} ", node("small", _interval(record)))


def _table(header: Sequence[str], rows: Iterable[Sequence[Element | str]]) -> Element:
    """The first cell of a row names it."""
    top = node("tr", *[node("th", name, scope="col") for name in header])
    body = [
        node("tr", node("th", name, scope="row"), *[node("td", cell) for cell in cells])
        for name, *cells in rows
    ]
    return node("div", node("table", node("thead", top), node("tbody", *body)), class_="wide")


def _seconds(run: FinishedRun) -> list[Element]:
    if not run.updates:
        return [_missing("No update was logged.")]
    names = [name for name in run.updates[0]["seconds"] if name != "total"]
    stages: dict[str, float] = {
        name: sum(line["seconds"][name] for line in run.updates) for name in names
    }
    updating = _updating(run)
    if (other := updating - sum(stages.values())) >= 0.05:
        stages["other"] = other
    # A resumed run's summary counts only what followed the resume.
    if (outside := run.summary["seconds"] - updating) > 0:
        stages["evaluation, saving"] = outside
    whole = sum(stages.values())
    rows = [[name, f"{each:,.1f}", f"{each / whole:.1%}"] for name, each in stages.items()]
    return [_table(["Stage", "Seconds", "Share"], [*rows, ["all", f"{whole:,.1f}", "100.0%"]])]


def _rejections(run: FinishedRun) -> list[Element]:
    """The first and the last rejected play that was kept, each beside what replaced it."""
    if not run.rejections:
        return []
    shown = [_rejection(record, run.score_levels) for record in _ends(run.rejections)]
    return [_section("Rejected, and what the student was shown instead", *shown)]


def _rejection(record: Record, levels: int) -> Element:
    rejected, shown = (
        Episode.from_json(json.dumps(record[name])) for name in ("rejected", "replacement")
    )
    score, threshold = record["score"], record["threshold"]
    title = f"Update {record['update'] + 1}: S(y) = {score:.2f}"
    if threshold is not None:
        title += f", below θ = {threshold:.3g}"
    return _pair(title, rejected, shown, levels, "Rejected play", "Demonstration")


_TERMS = {
    "EM, exact match": "the share of questions whose answer equals an accepted one, after case,"
    " articles and punctuation are dropped",
    "F1": "the overlap of words between the answer and an accepted one",
    "held-out": "questions that training never plays",
    "steps, hops": "how many searches, or calculations, a question needs",
    "verbal score": "the teacher's grade of one step, from 0 (worst) to 9 (best)",
    "S(y)": "the trajectory score: of the verbal scores of all steps of a play, by default the"
    " mean; 0 without an answer",
    "θ, threshold": "a play with S(y) below it is rejected",
    "α, acceptance": "the share of the student's plays that are trained on as they are",
    "demonstration": "a play by the teacher, which replaces a rejected one",
    "entropy": "how undecided the student is about its next token",
}


def _glossary() -> Element:
    return node(
        "dl",
        *(node("div", node("dt", name), node("dd", text)) for name, text in _TERMS.items()),
        class_="terms",
    )


def _episodes(run: FinishedRun) -> list[Element]:
    chosen = pick_examples(run.pairs)
    pairs = [_pair(title, before, after, run.score_levels) for title, before, after in chosen]
    return pairs or [_missing("No task was played both before and after.")]


def pick_examples(pairs: Sequence[tuple[Episode, Episode]]) -> list[tuple[str, Episode, Episode]]:
    """Up to three pairs, each under what it shows, the hardest of its kind."""
    kinds = {
        "Learned: wrong before, right after": (False, True),
        "Kept: right before and after": (True, True),
        "Still wrong": (False, False),
        "Lost: right before, wrong after": (True, False),
    }
    chosen: list[tuple[str, Episode, Episode]] = []
    for title, wanted in kinds.items():
        found = [pair for pair in pairs if (_right(pair[0]), _right(pair[1])) == wanted]
        if found:
            hardest = max(found, key=lambda pair: pair[0].task.hops)
            chosen.append((title, *hardest))
    return chosen[:3]


def _right(episode: Episode) -> bool:
    return (episode.exact_match or 0.0) >= 1.0


def _pair(
    title: str,
    before: Episode,
    after: Episode,
    levels: int,
    left: str = "Before",
    right: str = "After",
) -> Element:
    task = before.task
    return node(
        "article",
        node("p", title, class_="kicker"),
        node("h3", task.prompt),
        node("p", "Expected: ", node("b", " or ".join(task.answers)), class_="expected"),
        _folded("What the student is told at the start", node("pre", before.prompt)),
        node(
            "div",
            _played(left, before, levels),
            _played(right, after, levels),
            class_="pair",
        ),
    )


def _played(name: str, episode: Episode, levels: int) -> Element:
    turns = [_turn(turn, episode, levels) for turn in episode.turns]
    answer = "no answer" if episode.answer is None else episode.answer
    verdict = "right" if _right(episode) else "wrong"
    reward = sum(turn.reward or 0.0 for turn in episode.turns)
    return node(
        "div",
        node("h4", name),
        node("ol", *turns),
        node(
            "p",
            node("span", "✓ right" if _right(episode) else "✗ wrong", class_=f"verdict {verdict}"),
            f" {answer}",
            node("span", f"reward {reward:.2f}, F1 {episode.f1 or 0.0:.2f}", class_="note"),
            class_="end",
        ),
    )


def _turn(turn: Turn, episode: Episode, levels: int) -> Element:
    parts = [node("span", turn.kind, class_="kind"), _action(turn.action)]
    if turn.score is not None:
        parts.append(_verdict(turn.score, levels))
    if turn.documents:
        gold = set(episode.task.supporting)
        passages = [
            node(
                "li",
                node("b", document.title),
                f" {document.text}",
                *([node("em", "needed")] if gold & {document.id, document.source} else []),
            )
            for document in turn.documents
        ]
        titles = ", ".join(document.title or document.id for document in turn.documents)
        summary = f"{_plural(len(passages), 'passage')}: {titles}"
        parts.append(_folded(summary, node("ul", *passages)))
    elif turn.observation.strip():
        parts.append(node("p", turn.observation.strip(), class_="observation"))
    return node("li", *parts)


def _action(text: str) -> Element:
    """The raw action with its tags set apart."""
    pieces = re.split(r"(</?(?:think|search|answer|information)>)", text)
    tags = [node("span", tag, class_="tag") for tag in pieces[1::2]]
    mixed = [each for pair in zip_longest(pieces[::2], tags) for each in pair if each is not None]
    return node("pre", *mixed)


def _verdict(score: VerbalScore, levels: int) -> Element:
    if score.level is None:
        return node(
            "p", node("span", "?", class_="badge"), " no score: ", score.rationale, class_="said"
        )
    badge = node(
        "span",
        str(score.level),
        class_="badge",
        style=f"background:{badge_colour(score.level / (levels - 1))}",
        title=f"{score.level} of {levels - 1}, by {score.source}",
    )
    return node("p", badge, f" {score.rationale}", class_="said")


def _folded(summary: str, content: Element) -> Element:
    return node("details", node("summary", summary), content)


def _footer(run: FinishedRun) -> Element:
    summary = run.summary
    versions = f"Python {summary.get('python', '?')}, torch {summary.get('torch', '?')}"
    options = [
        node("div", node("dt", name), node("dd", value)) for name, value in _flat(run.config)
    ]
    return node(
        "footer",
        node("h2", "Configuration"),
        node("dl", *options, class_="options"),
        node("p", f"{versions}, {summary.get('threads', '?')} threads.", class_="note"),
    )


def _flat(config: Record, prefix: str = "") -> list[tuple[str, str]]:
    options: list[tuple[str, str]] = []
    for name, value in config.items():
        if isinstance(value, dict):
            options += _flat(value, f"{prefix}{name}.")  # pyright: ignore[reportUnknownArgumentType]
        else:
            options.append((prefix + name, json.dumps(value, ensure_ascii=False)))
    return options
