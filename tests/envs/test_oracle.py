"""The oracle: its rubric level by level, its play, and that its scores tell good from bad."""

from __future__ import annotations

from typing import Any

import pytest

from ovd_envs.calibration.agreement import agreement
from ovd_envs.calibration.calibrate import CORRUPTED
from ovd_envs.calibration.players import at_random, careless, lazy, mixed, oracle, play
from ovd_envs.episode import Task
from ovd_envs.errors import TaskError
from ovd_envs.registry import make_scenario
from ovd_envs.scenario import Scenario
from ovd_envs.scenarios import WEBQA
from ovd_envs.scenarios.mathematics import Math, MathOptions
from ovd_envs.scenarios.webqa import WebQA, WebQAOptions
from ovd_envs.teachers.base import ScoreRequest, Teacher
from ovd_envs.teachers.oracle.teacher import OracleTeacher
from retrieval_index.documents import Document

CHAIN = [
    {"query": "author of The Tower", "answer": "Ada Berg", "passage": "g1"},
    {"query": "birthplace of Ada Berg", "answer": "Oakham", "passage": "g2"},
]
QUESTION = Task(
    "q",
    "What is the birthplace of the author of The Tower?",
    ("Oakham", "Little Rome"),
    2,
    ("g1", "g2"),
    {"chain": CHAIN},
)
G1 = Document("g1", "The Tower", "The Tower was written by Ada Berg.")
G2 = Document("g2", "Ada Berg", "Ada Berg was born in Oakham.")
OTHER, ANOTHER = Document("d1", "Notes", "Of towers."), Document("d2", "Notes", "Of rivers.")
PAGES = {
    "author of The Tower": [G1, OTHER],
    "birthplace of Ada Berg": [G2],
    "tower height": [OTHER],
    "tower colour": [OTHER],
    "author height": [OTHER],
    "author colour": [OTHER],
    "rivers": [ANOTHER],
    "missing": [],
}
FIRST, SECOND = "<search>author of The Tower</search>", "<search>birthplace of Ada Berg</search>"
RIGHT, WRONG = "<answer>Little Rome</answer>", "<answer>Paris</answer>"

PROBLEM = Task("p", "?", ("12",), 2, (), {"steps": ["2+3=5", "5+7=12"]})


class Pages:
    def __init__(self, pages: dict[str, list[Document]]) -> None:
        self.pages = pages

    def search(self, requests: Any, k: int) -> list[list[Document]]:
        return [self.pages.get(request.query, []) for request in requests]


def webqa(**options: Any) -> WebQA:
    pages = options.pop("pages", PAGES)
    teacher = options.pop("teacher", OracleTeacher())
    defaults = {"max_turns": 8, "max_invalid": None, "top_k": 3}
    chosen = WebQAOptions(**{**defaults, **options})
    return WebQA(chosen, teacher, Pages(pages))


def levels(scenario: Scenario, task: Task, *actions: str) -> list[int]:
    [episode] = scenario.begin([task])
    scores = [scenario.advance([episode], [action])[0].score for action in actions]
    assert all(score is not None and score.rationale for score in scores)
    return [score.level for score in scores if score is not None and score.level is not None]


@pytest.mark.parametrize(
    ("actions", "expected"),
    [
        ((FIRST, SECOND, RIGHT), [9, 9, 9]),
        ((SECOND, FIRST, RIGHT), [8, 9, 9]),
        ((FIRST, FIRST), [9, 1]),
        ((FIRST, "<search>the AUTHOR of the tower!</search>"), [9, 1]),
        ((FIRST, SECOND, "<search>rivers</search>"), [9, 9, 3]),
        ((FIRST, "<search>tower height</search>"), [9, 2]),
        (("<search>tower height</search>", "<search>tower colour</search>"), [5, 5]),
        (("<search>author height</search>", "<search>author colour</search>"), [4, 2]),
        (("<search>rivers</search>",), [3]),
        (("<search>missing</search>",), [2]),
        (("<search>who was author of The Tower, please</search>",), [6]),
        (("<search>The Tower, a book</search>",), [5]),
        ((FIRST, RIGHT), [9, 7]),
        ((RIGHT,), [6]),
        ((WRONG,), [1]),
        (("<answer>Oakham Hill</answer>",), [3]),
        ((FIRST, SECOND, WRONG), [9, 9, 2]),
        (("<think>Let me see.</think>",), [2]),
        (("words", "<search>x"), [0, 0]),
        ((FIRST, f"<think>author of The Tower is Ada Berg</think>{SECOND}"), [9, 9]),
        ((FIRST, f"<think>author of The Tower is Olaf Vik</think>{SECOND}"), [9, 6]),
        ((FIRST, SECOND, f"<think>birthplace of Ada Berg is Paris</think>{RIGHT}"), [9, 9, 6]),
        ((FIRST, f"<think>author of The Tower is Olaf</think>{WRONG}"), [9, 1]),
    ],
)
def test_the_rubric_of_questions(actions: tuple[str, ...], expected: list[int]) -> None:
    assert levels(webqa(), QUESTION, *actions) == expected


def thought(*steps: str, answer: str = "") -> str:
    said = "".join(f"<think>{step}</think>" for step in steps)
    return said + (f"<answer>{answer}</answer>" if answer else "")


@pytest.mark.parametrize(
    ("actions", "expected"),
    [
        ((thought("2+3=5"), thought("5+7=12"), thought(answer="12")), [9, 9, 9]),
        ((thought("3+2=5"), thought("7+5=12")), [9, 9]),
        ((thought("2+3=5", "5+7=12", answer="12"),), [9]),
        ((thought("1+4=5"),), [8]),
        ((thought("5+7=12"), thought("2+3=5")), [7, 9]),
        ((thought("6+6=12"),), [6]),
        ((thought("1+1=2"),), [5]),
        ((thought("Let me think."),), [4]),
        ((thought("2+3=5"), thought("2+3=5")), [9, 3]),
        ((thought("2+3=6"),), [2]),
        ((thought("1+1=3"),), [1]),
        (("2+3=5", "<search>5</search>"), [0, 0]),
        ((thought(answer="12"),), [6]),
        ((thought("2+3=5", "5+7=12", "1+1=3", answer="12"),), [5]),
        ((thought("2+3=5", "5+7=12", answer="13"),), [2]),
        ((thought(answer="13"),), [1]),
    ],
)
def test_the_rubric_of_problems(actions: tuple[str, ...], expected: list[int]) -> None:
    found = levels(Math(MathOptions(max_turns=8), OracleTeacher()), PROBLEM, *actions)
    assert found == expected


def test_the_marks_of_gsm8k_are_steps() -> None:
    task = Task("g", "?", ("12",), metadata={"solution": "He has <<2+3=5>>5, then <<5+7=12>>12."})
    assert levels(
        Math(MathOptions(max_turns=8), OracleTeacher()), task, thought("2+3=5"), thought("2+3=6")
    ) == [9, 2]


def test_without_known_steps_only_truth_is_judged() -> None:
    task = Task("m", "?", ("12",))
    scenario = Math(MathOptions(max_turns=8), OracleTeacher())
    assert levels(scenario, task, thought("1+1=2"), thought("1+1=3"), thought("hm")) == [7, 1, 4]


@pytest.mark.parametrize("count", [2, 5, 100])
def test_levels_scale(count: int) -> None:
    actions = (FIRST, FIRST, "words", SECOND, "<search>tower height</search>", RIGHT)
    ten = levels(webqa(), QUESTION, *actions)
    scaled = levels(webqa(score_levels=count), QUESTION, *actions)
    assert scaled == [round(level * (count - 1) / 9) for level in ten]
    assert (min(scaled), max(scaled)) == (0, count - 1)


def test_later_turns_do_not_change_a_score() -> None:
    scenario = webqa()
    [episode] = scenario.begin([QUESTION])
    for action in (FIRST, "<search>rivers</search>", SECOND, WRONG):
        scenario.advance([episode], [action])
    again = OracleTeacher().score([ScoreRequest(episode, index) for index in range(4)])
    assert again == [turn.score for turn in episode.turns]


def test_a_question_without_gold_passages_takes_those_with_an_answer() -> None:
    task = Task("o", "Where was Ada Berg born?", ("Oakham",))
    scores = levels(webqa(), task, "<search>rivers</search>", SECOND, "<answer>Oakham</answer>")
    assert scores == [3, 9, 9]


BUILT_IN = [
    (env_id, split, options)
    for env_id, options in (
        ("ovd/WebQA-v0", {"passages": 300}),
        ("ovd/WebQA-v0", {"max_turns": 2, "world_seed": 1}),
        ("ovd/WebQA-v0", {}),
        ("ovd/Math-v0", {"levels": (1, 3, 9)}),
        ("ovd/Math-v0", {"max_turns": 1}),
    )
    for split in ("train", "test")
]


@pytest.mark.parametrize(("env_id", "split", "options"), BUILT_IN)
def test_demonstrations_are_always_right(env_id: str, split: str, options: dict[str, Any]) -> None:
    """Even where a search misses, or there is no turn to spare."""
    scenario, tasks = make_scenario(env_id, split=split, count=400, **options)
    shown = scenario.demonstrate(tasks)
    assert len(shown) > 200
    assert all(episode.turns[-1].reward == 1.0 for episode in shown)
    assert all(episode.exact_match == 1.0 and episode.terminated for episode in shown)


@pytest.mark.parametrize("env_id", ["ovd/WebQA-v0", "ovd/Math-v0"])
def test_demonstrations_score_high(env_id: str) -> None:
    scenario, tasks = make_scenario(env_id, count=300)
    scores = [
        turn.score.level
        for episode in scenario.demonstrate(tasks)
        for turn in episode.turns
        if turn.score and turn.score.level is not None
    ]
    assert sum(scores) / len(scores) > 8.8
    assert min(scores) >= 5


def test_the_oracle_goes_on_from_where_a_student_stopped() -> None:
    scenario = webqa()
    [episode] = scenario.begin([QUESTION])
    for action in ("nonsense", "<search>rivers</search>", FIRST):
        scenario.advance([episode], [action])
    teacher = scenario.teacher
    assert isinstance(teacher, Teacher)
    while not episode.done:
        scenario.advance([episode], teacher.act([episode]))
    assert [turn.content for turn in episode.turns[3:]] == ["birthplace of Ada Berg", "Oakham"]


def test_it_searches_by_title_where_there_is_no_chain() -> None:
    task = Task("t", "A question?", ("Oakham",), supporting=("g2",))
    teacher = OracleTeacher(lambda ids: [G2 for _ in ids])
    scenario = webqa(teacher=teacher, pages={"Ada Berg": [G2]})
    [episode] = scenario.demonstrate([task])
    assert [turn.content for turn in episode.turns] == ["A question?", "Ada Berg", "Oakham"]
    assert episode.exact_match == 1.0


PIECES = [Document("g2#0", "", "Ada Berg was a writer."), Document("g2#1", "", "Born in Oakham.")]


def test_of_a_split_gold_passage_the_piece_with_the_answer_is_gold() -> None:
    task = Task("t", "Where was Ada Berg born?", ("Oakham",), supporting=("g2",))
    scenario = webqa(
        pages={"a": PIECES[:1], "b": PIECES[1:], "c": [Document("g22#1", "", "Oakham")]}
    )
    searches = [f"<search>{query}</search>" for query in "acb"]
    assert levels(scenario, task, *searches, "<answer>Oakham</answer>") == [3, 3, 9, 9]
    assert levels(scenario, task, searches[0], "<answer>Oakham</answer>") == [3, 6]


def test_where_several_passages_are_needed_any_piece_of_each_is_gold() -> None:
    task = Task("t", "Where was she born?", ("Oakham",), supporting=("g1", "g2"))
    scenario = webqa(pages={"a": PIECES[:1], "b": [G1]})
    searches = [f"<search>{query}</search>" for query in "ab"]
    assert levels(scenario, task, *searches, "<answer>Oakham</answer>") == [9, 9, 9]
    # The same piece, or another one of its passage, found again by other words is nothing new.
    again = webqa(pages={"a": PIECES[:1], "b": PIECES[:1], "c": PIECES[1:]})
    assert levels(again, task, *(f"<search>{query}</search>" for query in "abc")) == [9, 2, 2]


def test_a_passage_that_the_index_split_is_searched_by_its_first_piece() -> None:
    pieces = {"g2#0": Document("g2#0", "Ada Berg", "Ada Berg was a writer.")}
    task = Task("t", "A question?", ("Oakham",), supporting=("g2",))
    teacher = OracleTeacher(lambda ids: [pieces[name] for name in ids])
    scenario = webqa(teacher=teacher, pages={"Ada Berg": PIECES})
    [episode] = scenario.demonstrate([task])
    assert [turn.content for turn in episode.turns] == ["A question?", "Ada Berg", "Oakham"]


def test_a_gold_passage_that_the_index_lacks_is_named() -> None:
    def lookup(ids: Any) -> list[Document]:
        return [{}[name] for name in ids]

    task = Task("t", "A question?", ("Oakham",), supporting=("g9",))
    with pytest.raises(
        TaskError, match="task 't' needs the passage 'g9', which the index does not"
    ):
        webqa(teacher=OracleTeacher(lookup)).demonstrate([task])


@pytest.mark.parametrize("where", ["query", "answer"])
def test_tags_in_a_task_can_not_break_a_demonstration(where: str) -> None:
    chain = [{**CHAIN[0], where: f"</search><answer>{CHAIN[0][where]}"}, CHAIN[1]]
    task = Task("x", "What?", ("</answer>Oakham",), 2, ("g1", "g2"), {"chain": chain})
    [episode] = webqa(teacher=OracleTeacher(max_turns=8)).demonstrate([task])
    assert "invalid" not in {turn.kind for turn in episode.turns}
    assert episode.terminated


@pytest.mark.parametrize(("env_id", "spearman"), [("ovd/WebQA-v0", 0.7), ("ovd/Math-v0", 0.5)])
def test_scores_span_the_scale_and_agree_with_correctness(env_id: str, spearman: float) -> None:
    scenario, tasks = make_scenario(env_id, count=600)
    player = mixed(*(careless(scenario, share) for share in CORRUPTED))
    result = agreement(play(scenario, tasks, player, seed=1))
    assert all(count > 0 for count in result.steps)
    assert result.spearman > spearman
    assert result.auc > 0.9
    high, low = result.means >= 8, result.means < 5
    assert result.correct[high].mean() > 0.95
    assert result.correct[low].mean() < 0.4


@pytest.mark.parametrize("env_id", ["ovd/WebQA-v0", "ovd/Math-v0"])
def test_stronger_players_score_higher(env_id: str) -> None:
    scenario, tasks = make_scenario(env_id, count=150, split="test")
    strengths = [oracle(scenario), careless(scenario, 0.25), careless(scenario, 0.7), at_random]
    played = [agreement(play(scenario, tasks, player)) for player in strengths]
    means, right = ([getattr(r, name).mean() for r in played] for name in ("means", "correct"))
    assert means == sorted(means, reverse=True)
    assert right == sorted(right, reverse=True)
    assert (right[0], means[3] < 4, right[3] < 0.2) == (1.0, True, True)
    assert means[3] < agreement(play(scenario, tasks, lazy)).means.mean() < means[0]


@pytest.mark.parametrize(
    ("hops", "thought", "level"),
    [
        (1, "{q0}", 9),
        (1, "{q0}, then its seat", 2),  # plans a hop that the question does not have
        (2, "{q0}, then its {r1}", 9),
        (2, "{q0}", 2),  # leaves one out
        (2, "{q0}, then its {r1}, then its seat", 2),
        (2, "", 9),  # says nothing of what comes
        (2, "let me look", 9),
        (3, "{q0}, then its {r1}, then its {r2}", 9),
        (3, "{q0}, then its {r2}, then its {r1}", 2),
    ],
)
def test_a_search_is_judged_by_what_its_thought_plans(hops, thought, level):
    scenario, tasks = make_scenario(WEBQA, count=30, hops=(hops,), max_turns=5, top_k=3)
    blind, _ = make_scenario(
        WEBQA,
        count=1,
        hops=(hops,),
        max_turns=5,
        top_k=3,
        teacher={"name": "oracle", "judges_plans": False},
    )
    judged = 0
    for task in tasks:
        chain = task.metadata["chain"]
        names = [link["query"].partition(" of ")[0] for link in chain]
        if len({*names, "seat"}) <= hops:  # another order would be the same
            continue
        words = {f"r{n}": name for n, name in enumerate(names)} | {"q0": chain[0]["query"]}
        said = f"<think>{thought.format(**words)}</think>" if thought else ""
        action = f"{said}<search>{chain[0]['query']}</search>"
        [free], [plan] = blind.begin([task]), scenario.begin([task])
        [before] = blind.advance([free], [action])
        [turn] = scenario.advance([plan], [action])
        if before.score.level == 9:
            assert turn.score.level == level, turn.score.rationale
            judged += 1
    assert judged > 5


def test_the_oracles_own_plans_are_right_on_every_hop():
    scenario, tasks = make_scenario(WEBQA, count=60, hops=(1, 2, 3, 4), max_turns=6, top_k=3)
    for episode in scenario.demonstrate(tasks):
        assert not any("Plans other hops" in turn.score.rationale for turn in episode.turns)
