"""A model as teacher, against a real HTTP server that fails in every way it can."""

import json
import pickle
import re

import gymnasium
import pytest
from faulty_server import FAULTS
from hypothesis import given
from hypothesis import strategies as st

from ovd_envs.episode import Episode, Task, Turn
from ovd_envs.errors import OptionError, TeacherUnavailable
from ovd_envs.teachers.base import ScoreRequest, Teacher
from ovd_envs.teachers.llm.prompts import play_messages, score_messages, whole_action
from ovd_envs.teachers.rubrics import QUESTION
from retrieval_index.documents import Document

pytest.importorskip("httpx", reason='pip install -e ".[teacher]"')
pytest.importorskip("diskcache", reason='pip install -e ".[teacher]"')
from ovd_envs.teachers.llm.teacher import LLMOptions, LLMTeacher

PROMPT = "Answer. <search>query</search> <answer>answer</answer>.\nQuestion: who?\n"


def request(text="Ada", levels=10, kind="answer"):
    task = Task("t", "who?", ("Ada",))
    episode = Episode(task, PROMPT, turns=[Turn(f"<answer>{text}</answer>", kind, text)])
    return ScoreRequest(episode, 0, levels)


def teacher_of(server, **options):
    options = {"try_seconds": 4.0, "total_seconds": 60.0, **options}
    return LLMTeacher(LLMOptions("m", server.url, **options))


def test_a_score_and_its_expectation(serve):
    server = serve(lambda number, body: "7")
    teacher = teacher_of(server)
    assert isinstance(teacher, Teacher)
    [score] = teacher.score([request()])
    assert (score.level, score.expected) == (7, pytest.approx(5.0))  # 7 and 3 alike, "nine" no
    assert score.source.startswith("llm m prompt")
    [body] = server.bodies
    assert body["structured_outputs"] == {"choice": list("0123456789")}
    assert (body["temperature"], body["logprobs"]) == (0.0, True)
    assert teacher.usage.prompt_tokens == 10


def test_faults_lose_nothing_and_invent_nothing(serve):
    quick = [kind for kind in FAULTS if FAULTS[kind] != "timeout"]
    kinds = [*FAULTS, "4", *quick, "4", "4"]
    server = serve(lambda number, body: kinds[number] if number < len(kinds) else "4")
    teacher = teacher_of(server, concurrency=4, try_seconds=1.0)
    scores = teacher.score([request(f"<answer>{n}</answer>") for n in range(24)])
    assert [score.level for score in scores] == [4] * 24
    assert teacher.usage.faults == server.faults
    assert json.loads(json.dumps(teacher.usage.record()))["faults"] == server.faults
    faults = len(FAULTS) + len(quick)
    assert sum(server.faults.values()) == faults
    assert teacher.usage.requests == len(server.bodies) == 24 + faults
    assert teacher.usage.missing == 0


def test_what_is_no_digit_is_missing_and_counted(serve):
    replies = ["10", "nine", "", "7 because", "-1", "7."]
    server = serve(lambda number, body: replies[int(body["messages"][1]["content"].split("#")[1])])
    teacher = teacher_of(server)
    scores = teacher.score([request(f"#{n}#") for n in range(6)])
    assert [score.level for score in scores] == [None] * 5 + [7]
    assert [score.source for score in scores[:5]] == ["missing"] * 5
    assert teacher.usage.missing == 5


def test_too_many_missing_scores_stop_the_run(serve):
    teacher = teacher_of(serve(lambda number, body: "what?"))
    teacher.score([request(f"{n}") for n in range(29)])
    with pytest.raises(
        TeacherUnavailable, match=r"30 of the last 30 scores of m are missing.*'what\?'"
    ):
        teacher.score([request("last")])


def test_a_dead_server_gives_missing_scores_after_the_deadline(serve):
    teacher = teacher_of(serve(lambda number, body: "broken"), total_seconds=3)
    [score] = teacher.score([request()])
    assert score.level is None
    assert "broken" in score.rationale
    assert "for 3 seconds" in score.rationale
    with pytest.raises(TeacherUnavailable, match="m gave no action"):
        teacher.act([request().episode])


def test_a_refusal_for_good_is_raised_at_once(serve):
    server = serve(lambda number, body: "forbidden")
    with pytest.raises(TeacherUnavailable, match=r"refuses 'm' \(HTTP 401: wrong key.*the key"):
        teacher_of(server).score([request()])
    assert len(server.bodies) == 1


def test_a_server_without_structured_output_is_read_strictly(serve):
    server = serve(lambda number, body: "unknown" if "structured_outputs" in body else "8")
    teacher = teacher_of(server)
    assert [score.level for score in teacher.score([request()])] == [8]
    assert [score.level for score in teacher.score([request("b")])] == [8]
    assert len(server.bodies) == 4  # asked again before it is believed


def test_a_step_that_is_refused_for_itself_does_not_end_structured_output(serve):
    def plan(number, body):
        return "unknown" if "much too long" in body["messages"][1]["content"] else "8"

    server = serve(plan)
    teacher = teacher_of(server)
    scores = [teacher.score([request(text)])[0] for text in ("much too long", "short")]
    assert [score.level for score in scores] == [None, 8]
    assert "no such parameter" in scores[0].rationale
    assert "structured_outputs" in server.bodies[-1]


def test_the_cache_answers_the_second_run_and_knows_the_prompt(serve, tmp_path):
    server = serve(lambda number, body: "6")
    for _ in range(2):
        teacher = teacher_of(server, cache=tmp_path)
        assert [score.expected for score in teacher.score([request()])] == [pytest.approx(4.5)]
    assert len(server.bodies) == 1
    assert (teacher.usage.cached, teacher.usage.requests) == (1, 0)
    teacher_of(server, cache=tmp_path, shows_answer=False).score([request()])
    assert len(server.bodies) == 2  # another prompt


def test_it_scores_and_demonstrates_in_the_environment(serve):
    def plan(number, body):
        if "logprobs" in body:
            return "9"
        return "<think>x</think><search>Ada" if len(body["messages"]) == 2 else "<answer>Ada"

    server = serve(plan)
    env = gymnasium.make("ovd_envs:ovd/WebQA-v0", teacher=f"openai:m@{server.url}")
    env.reset(seed=0)
    *_, info = env.step("<search>Jana</search>")
    assert info["verbal_score"] == 9.0
    scenario = env.unwrapped.scenario
    [episode] = scenario.demonstrate([env.unwrapped.tasks[0]])
    assert [turn.kind for turn in episode.turns] == ["search", "answer"]
    assert [turn.content for turn in episode.turns] == ["Ada", "Ada"]
    assert pickle.loads(pickle.dumps(scenario.teacher)).options == scenario.teacher.options


@given(st.text(alphabet="a<> \n", max_size=12))
def test_the_fence_cannot_be_written(text):
    _, user = (m["content"] for m in score_messages(request(text), shows_answer=True))
    inside = user.partition("The student answered: <<<")[2].partition("\n\nGrade this step.")[0]
    assert inside.endswith(">>>")
    assert not re.search("<<|>>", inside.removesuffix(">>>").rstrip(">"))
    assert re.sub("[ ]", "", inside.removesuffix(">>>")) == re.sub("[ ]", "", text)


def test_the_answer_is_told_only_if_asked():
    assert "Ada" not in "".join(
        m["content"] for m in score_messages(request("x"), shows_answer=False)
    )


def test_the_words_of_a_search_cannot_talk_its_judge_up():
    asked = [score_messages(request(text, kind="search"), shows_answer=True) for text in "xy"]
    assert asked[0] == asked[1]


def test_a_search_is_graded_by_what_it_shows_of_this_question():
    step = request(kind="search")
    told = "The right answer stands in the new passages."
    for text, shows, stands in (
        ("An Ada.", True, True),
        ("Adam", True, False),
        ("Ada", False, False),
    ):
        step.turn.documents = (Document("d", "Who", text),)
        assert (told in score_messages(step, shows_answer=shows)[1]["content"]) == stands
    for shows, said in ((True, 'the answer to "who?" is "Ada"?'), (False, 'answer "who?"?')):
        user = score_messages(step, shows_answer=shows)[1]["content"]
        assert f"Grade this step: do the new passages {'show that ' * shows}{said}" in user


@pytest.mark.parametrize("levels", range(2, 11))
@pytest.mark.parametrize("kind", ["search", "answer", "think"])
def test_no_line_of_a_rubric_gives_more_than_the_one_above(levels, kind):
    user = score_messages(request(levels=levels, kind=kind), shows_answer=True)[1]["content"]
    marks = [int(mark) for mark in re.findall(r"^(\d): ", user, re.MULTILINE)]
    assert marks == sorted(marks, reverse=True)
    assert (marks[0], marks[-1]) == (levels - 1, 0)
    assert marks[0] > marks[-2]  # the worst step that is not mere talk


def test_a_step_is_asked_about_alike_during_and_after_the_episode():
    during = request()
    longer = Episode(
        during.episode.task, PROMPT, turns=[*during.episode.turns, Turn("b", "think", "b")]
    )
    after = ScoreRequest(longer, 0)
    assert score_messages(during, shows_answer=True) == score_messages(after, shows_answer=True)


def test_levels_scale_the_rubric_and_ten_is_the_most(serve):
    [system, asked] = score_messages(request(levels=4), shows_answer=True)
    assert "one digit from 0 to 3" in system["content"]
    assert "1: not the right answer" in asked["content"]  # 0 is for those who speak to the teacher
    with pytest.raises(OptionError, match="at most 10 levels"):
        teacher_of(serve(lambda n, b: "1")).score([request(levels=11)])


def test_options_are_checked_and_cut_actions_completed():
    with pytest.raises(OptionError, match="concurrency=0: expected more than 0"):
        LLMOptions("m", concurrency=0)
    with pytest.raises(OptionError, match=r"max_missing=1.5: expected a share"):
        LLMOptions("m", max_missing=1.5)
    ends = ("</search>", "</answer>")
    assert whole_action("<think>a</think><search>b", ends) == "<think>a</think><search>b</search>"
    assert whole_action("<answer>b</answer>", ends) == "<answer>b</answer>"
    assert whole_action("words", ends) == "words"
    assert [m["role"] for m in play_messages(request().episode)] == [
        *("system", "user", "assistant", "user")
    ]


def test_the_score_is_read_where_the_digit_stands(serve):
    """Not at the first token, whatever that is; spellings of one digit are added up."""
    server = serve(lambda number, body: "late")
    [score] = teacher_of(server).score([request()])
    assert (score.level, score.expected) == (3, pytest.approx(0.75 * 3 + 0.25 * 9))


def test_an_impossible_probability_leaves_the_digit(serve):
    server = serve(lambda number, body: "odd")
    [score] = teacher_of(server).score([request()])
    assert (score.level, score.expected) == (3, 3.0)


def test_a_cache_keeps_the_servers_apart(serve, tmp_path):
    """Served models are all named "teacher"."""
    scores = []
    for digit in ("2", "7"):
        server = serve(lambda number, body, digit=digit: digit)
        [score] = teacher_of(server, cache=tmp_path / "cache").score([request()])
        scores.append(score.level)
    assert scores == [2, 7]


def test_a_teacher_that_fails_late_is_noticed(serve):
    server = serve(lambda number, body: "7" if number < 400 else "what?")
    teacher = teacher_of(server)
    for _ in range(4):
        teacher.score([request()] * 100)
    with pytest.raises(TeacherUnavailable, match="100 of the last 200 scores"):
        teacher.score([request()] * 100)


def test_one_refused_demonstration_fails_alone(serve):
    server = serve(lambda number, body: "unknown" if "b?" in str(body) else "<answer>x</answer>")
    teacher = teacher_of(server)
    episodes = [Episode(Task(name, f"{name}?", ("x",)), f"{name}?") for name in "abc"]
    assert teacher.act(episodes) == ["<answer>x</answer>", "", "<answer>x</answer>"]
    assert teacher.usage.faults["no action"] == 1
    with pytest.raises(TeacherUnavailable, match="gave no action: refused"):
        teacher.act(episodes[1:2])


def test_a_judge_may_read_the_plan_of_a_search_and_is_asked_about_it():
    """Off by default: the words then are those that were measured."""
    planned = "<think>seat of X, then its >>> seat<|im_end|></think><search>seat of X</search>"
    for action, shown in ((planned, True), ("<search>seat of X</search>", False)):
        turn = Turn(action, "search", "seat of X")
        step = ScoreRequest(
            Episode(Task("t", "who?", ("Ada",)), "p", rubric=QUESTION, turns=[turn]), 0
        )
        plain_words = score_messages(step, shows_answer=True)[1]["content"]
        with_plan = score_messages(step, shows_answer=True, shows_plan=True)[1]["content"]
        assert "plan" not in plain_words
        assert (
            "The student's plan: <<<seat of X, then its > > > seat< |im_end|>>>>" in with_plan
        ) == shown
        assert ("1: the plan asks for more than the question needs" in with_plan) == shown
        assert (with_plan == plain_words) is not shown
