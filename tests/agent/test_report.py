"""The report of a run: complete, honest about gaps, escaped, well formed, atomic."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from ovd_agent.report.charts import badge_colour, round_ticks
from ovd_agent.report.run import pick_examples, write_report
from ovd_agent.runs.evaluate import summarise
from ovd_agent.runs.folder import read_run
from ovd_envs.episode import Document, Episode, Task, Turn, VerbalScore, write_episodes
from ovd_envs.errors import OptionError

HOSTILE = "Who wrote <script>alert('x')</script> & \"more\"?"
SECTIONS = [
    "By difficulty",
    "During training",
    "What the teacher said",
    "Where the time went",
    "Episodes before and after",
    "Terms",
    "Configuration",
]
VOID = {"meta", "br", "hr", "img", "link", "input"}


def episode(name: str, hops: int, right: bool, prompt: str = "", score: bool = True) -> Episode:
    task = Task(name, prompt or f"Question {name}?", ("gold",), hops, ("p1",))
    documents = (Document("p1", "Title <i>", "Text </details> & more"), Document("p2", "T", "x"))
    said = VerbalScore(7, 7.0, f"about <b>{name}</b>", "rule") if score else None
    answer = "gold" if right else "<lead>"
    turns = [
        Turn("<search>q<img src=x></search>", "search", "q", 0, "seen", documents, said, 0.0),
        Turn(
            "oops \ud800 <b>", "invalid", "no", 0, "\nInvalid action: <u>no tag.\n", (), said, 0.0
        ),
        Turn(f"<answer>{answer}</answer>", "answer", answer, 0, "", (), said, float(right)),
    ]
    done = float(right)
    return Episode(task, f"Told: {task.prompt}", 0, turns, True, False, "answered", done, done)


def update(number: int, acceptance: float | None) -> dict[str, Any]:
    return {
        "update": number,
        "em": 0.1 + 0.01 * number,
        "acceptance": acceptance,
        "score_histogram": [number, 0, 0, 0, 0, 0, 0, 0, 0, 3],
        "student_tokens": 100,
        "loss": -0.5 + 0.1 * number,
        "entropy": 0.2,
        "seconds": {"rollout": 1.5, "teacher": 0.25, "learn": 2.0, "total": 4.0},
    }


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a run folder; arguments replace the parts of a complete one."""

    def make(
        updates: list[dict[str, Any]] | None = None,
        evaluations: int = 2,
        before: list[Episode] | None = None,
        after: list[Episode] | None = None,
        algorithm: str = "ovd",
    ) -> Path:
        if updates is None:
            updates = [update(number, 0.25 + 0.013 * number) for number in range(40)]
        if before is None:
            before = [
                episode("a", 1, True),
                episode("b", 2, False, HOSTILE),
                episode("c", 3, False),
            ]
        if after is None:
            after = [episode("a", 1, True), episode("b", 2, True, HOSTILE), episode("c", 3, False)]
        evaluated = [{"update": 0, **summarise(before)}, {"update": 40, **summarise(after)}]
        summary = {
            "env": "ovd/WebQA-v0",
            "algorithm": algorithm,
            "seed": 17,
            "updates": len(updates),
            "seconds": 321.4,
            "student_tokens": 1_234_567,
            "teacher_tokens": 89_012,
            "torch": "2.99",
            "python": "3.11.7",
            "threads": 2,
        }
        config = {"env": {"name": "ovd/WebQA-v0", "tasks": "a</dl><b>", "score_levels": 10}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "summary.json").write_text(json.dumps(summary))
        lines = {"log": updates, "eval": evaluated[:evaluations]}
        for name, records in lines.items():
            text = "".join(json.dumps(record) + "\n" for record in records)
            (tmp_path / f"{name}.jsonl").write_text(text)
        write_episodes(tmp_path / "episodes_before.jsonl", before)
        write_episodes(tmp_path / "episodes_after.jsonl", after)
        return tmp_path

    return make


class Page(HTMLParser):
    """Fails on a tag that is closed wrongly; keeps the text and the tags."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.html = write_report(folder).read_text(encoding="utf-8")
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.titles: list[str] = []
        self.texts: list[str] = []
        self.feed(self.html)
        self.close()
        assert not self.open
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.titles.append(data)
        if "style" not in self.open:
            self.texts.append(data)

    def charts(self) -> list[ElementTree.Element]:
        return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", self.html)]


def test_has_every_section_in_order_and_five_charts(write: Write) -> None:
    page = Page(write())
    assert page.titles == SECTIONS
    assert len(page.charts()) == 5
    assert "OVD on ovd/WebQA-v0, seed 17" in page.text


def test_a_rejected_play_stands_beside_its_replacement(write: Write) -> None:
    folder = write([update(n, 0.5) | {"trajectory_scores": [2.0, 7.5], "threshold": 7.0}
                    for n in range(4)])  # fmt: skip
    lines = []
    for number in (0, 3):
        rejected, shown = (episode("a", 1, right, HOSTILE) for right in (False, True))
        record = {"update": number, "score": 2.25, "threshold": 7.0}
        record["rejected"] = json.loads(rejected.to_json())
        record["replacement"] = json.loads(shown.to_json())
        lines.append(json.dumps(record) + "\n")
    (folder / "rejections.jsonl").write_text("".join(lines))
    page = Page(folder)
    assert "Rejected, and what the student was shown instead" in page.titles
    assert "Update 1: S(y) = 2.25, below θ = 7" in page.text
    assert "Update 4: S(y) = 2.25, below θ = 7" in page.text
    assert page.text.count("Rejected play") == page.text.count("Demonstration") == 2
    scores = page.charts()[2]
    assert "Trajectory score S(y)" in page.text
    assert len(scores.findall("circle")) == 8
    assert len(scores.findall("path")) == 1  # θ, and no line through the samples


def test_shares_are_drawn_from_nothing_to_all(write: Write) -> None:
    """Also where all are 0."""
    page = Page(write([update(n, 0.0) | {"em": 0.0} for n in range(4)]))
    for chart in page.charts()[:2]:
        labels = [text.text for text in chart.findall("text") if text.get("text-anchor") == "end"]
        assert (labels[0], labels[-1]) == ("0", "1")


def test_the_numbers_are_those_of_the_files(write: Write) -> None:
    text = Page(write()).text
    assert "0.333 → 0.667" in text
    assert "33.3% before. 1 went from wrong to right, 0 from right to wrong" in text
    assert "before [0.061, 0.792], after [0.208, 0.939]" in text
    assert "0.250 → 0.757" in text
    assert "mean of the first quarter 0.308, of the last 0.698" in text
    assert "1,234,567" in text
    assert "89,012" in text
    assert "321 s" in text
    assert "2 0.000 [0.000, 0.793] 1.000 [0.207, 1.000] +1.000 0.000 1.000 1" in text
    assert "all 0.333 [0.061, 0.792] 0.667 [0.208, 0.939] +0.333 0.333 0.667 3" in text
    assert "rollout 60.0 18.7%" in text
    assert "other 10.0 3.1% evaluation, saving 161.4 50.2% all 321.4 100.0%" in text
    assert "torch 2.99" in text


def test_the_histogram_compares_first_and_last_quarter(write: Write) -> None:
    html = Page(write()).html
    early, late = 45 / (45 + 30), 345 / (345 + 30)
    assert f"first quarter, 0: {early:.3f}" in html
    assert f"last quarter, 0: {late:.3f}" in html


def test_a_fine_score_scale_is_binned(write: Write) -> None:
    lines = [{**update(n, 0.5), "score_histogram": [1] * 99 + [101]} for n in range(4)]
    html = Page(write(lines)).html
    assert "first quarter, 95–99: 0.525" in html


def test_what_a_student_wrote_stays_text(write: Write) -> None:
    page = Page(write())
    assert not page.tags & {"script", "img", "u", "i", "lead", "br"}
    assert HOSTILE in page.text
    assert "Text </details> & more" in page.text
    assert '"a</dl><b>"' in page.text
    # Half a surrogate pair cannot be written as UTF-8.
    assert "&#55296;" in page.html


def test_needs_no_network_and_no_script(write: Write) -> None:
    page = Page(write())
    assert not page.tags & {"script", "link", "img", "iframe"}
    assert "http" not in page.html
    assert "url(" not in page.html


def test_shows_turns_with_scores_and_gold_passages(write: Write) -> None:
    text = Page(write()).text
    assert "7 about <b>b</b>" in text
    assert "Title <i> Text </details> & more needed" in text
    assert "T x needed" not in text
    assert "Invalid action: <u>no tag." in text
    assert "✓ right gold reward 1.00, F1 1.00" in text
    assert "✗ wrong <lead> reward 0.00, F1 0.00" in text


def test_without_scores_there_is_no_badge(write: Write) -> None:
    with_scores = Page(write()).html
    bare = [episode("a", 1, True, score=False)]
    assert 'class="badge"' in with_scores
    assert 'class="badge"' not in Page(write(before=bare, after=bare)).html


def test_a_missing_score_says_so(write: Write) -> None:
    played = episode("a", 1, True)
    played.turns[0].score = VerbalScore.missing("the server was away")
    assert "? no score: the server was away" in Page(write(before=[played], after=[played])).text


def test_chooses_the_hardest_of_each_kind_and_admits_losses() -> None:
    def pair(name: str, hops: int, before: bool, after: bool) -> tuple[Episode, Episode]:
        return episode(name, hops, before), episode(name, hops, after)

    pairs = [
        pair("easy", 1, False, True),
        pair("hard", 3, False, True),
        pair("lost", 1, True, False),
    ]
    assert [each[1].task.id for each in pick_examples(pairs)] == ["hard", "lost"]
    pairs += [pair("kept", 2, True, True), pair("never", 2, False, False)]
    assert [each[1].task.id for each in pick_examples(pairs)] == ["hard", "kept", "never"]
    assert pick_examples([]) == []


def test_pairs_are_of_the_same_question_even_when_ids_repeat(write: Write) -> None:
    before = [episode("a", 1, True, "By name?"), episode("a", 1, False, "By alias?")]
    after = [episode("a", 1, False, "By alias?"), episode("a", 1, True, "By name?")]
    pairs = read_run(write(before=before, after=after)).pairs
    assert [(a.task.prompt, b.task.prompt) for a, b in pairs] == [
        ("By name?", "By name?"),
        ("By alias?", "By alias?"),
    ]


def test_without_acceptance_it_says_so(write: Write) -> None:
    page = Page(write([update(n, None) for n in range(3)], algorithm="grpo"))
    assert page.titles == SECTIONS
    assert "no sample was up for rejection" in page.text
    assert "Acceptance α Nothing was logged." in page.text
    assert len(page.charts()) == 4


def test_with_one_evaluation_it_compares_nothing(write: Write) -> None:
    page = Page(write(evaluations=1, after=[]))
    assert page.titles == SECTIONS
    assert "There was only one evaluation" in page.text
    assert "No task was played both before and after." in page.text


@pytest.mark.parametrize("evaluations", [0, 1, 2])
def test_with_no_update_it_says_so(write: Write, evaluations: int) -> None:
    page = Page(write([], evaluations))
    assert page.titles == SECTIONS
    assert "no update was made" in page.text
    assert "No verbal score was logged." in page.text
    assert "No update was logged." in page.text
    assert ("No held-out evaluation" in page.text) == (evaluations == 0)


def test_training_without_student_episodes_has_no_training_em(write: Write) -> None:
    lines = [{**update(n, None), "student_tokens": 0, "em": 0.0} for n in range(3)]
    charts = Page(write(lines, algorithm="sft")).charts()
    assert not charts[0].findall(".//path[@class='line c1']")


def test_a_resumed_run_says_what_its_seconds_cover(write: Write) -> None:
    page = Page(write([update(n, 0.5) for n in range(100)]))
    assert "4.0 s an update, counted since the last resume" in page.text
    assert "evaluation, saving" not in page.text


def test_curves_stay_inside_the_drawing(write: Write) -> None:
    for chart in Page(write()).charts():
        for path in chart.findall(".//path"):
            numbers = [float(each) for each in re.findall(r"[\d.-]+", path.attrib["d"])]
            assert all(0 <= x <= 400 for x in numbers[::2])
            assert all(0 <= y <= 220 for y in numbers[1::2])


def test_a_falling_value_is_drawn_downwards(write: Write) -> None:
    lines = [{**update(n, 0.9 - 0.3 * n)} for n in range(3)]
    acceptance = Page(write(lines)).charts()[1]
    path = acceptance.find(".//path[@class='line c2']")
    assert path is not None
    numbers = [float(each) for each in re.findall(r"[\d.]+", path.attrib["d"])]
    assert numbers[::2] == sorted(numbers[::2])
    assert numbers[1] < numbers[3] < numbers[5]


def test_leaves_no_temporary_file_and_replaces_the_old_page(write: Write) -> None:
    folder = write()
    (folder / "report.html").write_text("old")
    assert write_report(folder) == folder / "report.html"
    assert (folder / "report.html").read_text(encoding="utf-8") != "old"
    assert not list(folder.glob("*.tmp"))


def test_a_damaged_run_keeps_the_old_page(write: Write) -> None:
    folder = write()
    (folder / "report.html").write_text("old")
    (folder / "summary.json").write_text("{")
    with pytest.raises(ValueError, match=r"summary\.json: not JSON"):
        write_report(folder)
    assert (folder / "report.html").read_text() == "old"


def test_an_unfinished_run_is_named_with_what_it_lacks(write: Write) -> None:
    folder = write()
    (folder / "summary.json").unlink()
    sentence = rf"{re.escape(str(folder))} is not a finished run: it has no summary\.json"
    with pytest.raises(OptionError, match=sentence):
        write_report(folder)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 0), (0, 1), (-0.3, 0.7), (5, 5), (0, 1e-7), (1e6, 3e6), (0, 39)]
)
def test_ticks_are_few_round_and_cover_the_range(low: float, high: float) -> None:
    ticks = round_ticks(low, high)
    assert ticks[0] <= low + 1e-9
    assert ticks[-1] >= high - 1e-9
    assert 3 <= len(ticks) <= 7


def test_every_badge_carries_white_text() -> None:
    for level in range(10):
        numbers = re.findall(r"\d+", badge_colour(level / 9))
        channels = [int(each) / 255 for each in numbers]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        assert 1.05 / (luminance + 0.05) >= 4.5
