"""Answers are judged as SQuAD and Search-R1 judge them; mathematics by value, within a time."""

from __future__ import annotations

import os
import re
import string
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovd_envs.grading import mathematics, worker
from ovd_envs.grading.expressions import exact_value
from ovd_envs.grading.mathematics import math_equal
from ovd_envs.grading.text import exact_match, f1_score, normalize
from retrieval_index.mentions import mentions

ROOT = Path(__file__).parents[2]
TOWER = r"9^{9^{9^{9^{9}}}}"  # more digits than there are atoms: to compute it never ends
WORDS = st.text("abthe ,.!-'9é", max_size=20)
# An accepted answer of which normalisation leaves nothing is another case: test_strict.py.
GOLDS = WORDS.filter(lambda text: bool(normalize(text)))
ANSWERS = st.lists(GOLDS, min_size=1, max_size=4)


@pytest.fixture
def fresh() -> worker.Verifier:
    """The module's verifier without a worker, as at the start of a program."""
    worker.verifier.close()
    return worker.verifier


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Beatles", "beatles"),
        ("  a  cat,an owl and the   dog!", "catan owl and dog"),
        ("theatre anthem", "theatre anthem"),  # articles are words, not parts of words
        ("U.S.A.", "usa"),
        ("the", ""),
        ("É\tÀ", "é à"),
    ],
)
def test_normalisation(text: str, normal: str) -> None:
    assert normalize(text) == normal


@given(st.text("abthe A.,-–\x00\u00a0_é9\n", max_size=30))
def test_normalisation_is_squads(text: str) -> None:
    """Against SQuAD v1.1's evaluation script, step by step."""
    plain = "".join(c for c in text.lower() if c not in set(string.punctuation))
    assert normalize(text) == " ".join(re.sub(r"\b(a|an|the)\b", " ", plain).split())


@pytest.mark.parametrize(
    ("answer", "answers", "em", "f1"),
    [
        ("the Eiffel Tower!", ("Eiffel Tower",), 1.0, 1.0),
        ("Eiffel", ("Eiffel Tower",), 0.0, 2 / 3),
        ("in the Eiffel Tower of Paris", ("Eiffel Tower",), 0.0, 4 / 7),
        ("Tower Eiffel", ("Eiffel Tower",), 0.0, 1.0),
        ("cat cat", ("cat",), 0.0, 2 / 3),  # each word counts as often as both have it
        ("dog", ("cat", "big dog", "Dog."), 1.0, 1.0),  # the best of several answers
        ("big", ("cat", "big dog"), 0.0, 2 / 3),
        ("yes", ("yes sir",), 0.0, 0.0),
        ("no", ("No",), 1.0, 1.0),
        ("", ("cat",), 0.0, 0.0),
        ("the", ("a",), 0.0, 0.0),  # of both nothing is left: compared as they are
        ("A", ("a",), 1.0, 1.0),
        ("cat", (), 0.0, 0.0),
    ],
)
def test_exact_match_and_f1(answer: str, answers: tuple[str, ...], em: float, f1: float) -> None:
    assert exact_match(answer, answers) == em
    assert f1_score(answer, answers) == pytest.approx(f1)


@given(WORDS, ANSWERS)
def test_f1_is_squads(answer: str, answers: list[str]) -> None:
    """Against the formula of SQuAD's evaluation script, precision and recall spelt out."""

    def squad(gold: str) -> float:
        given, wanted = normalize(answer).split(), normalize(gold).split()
        same = sum((Counter(given) & Counter(wanted)).values())
        if not given or not wanted:
            return float(given == wanted)
        if same == 0:
            return 0.0
        precision, recall = same / len(given), same / len(wanted)
        return 2 * precision * recall / (precision + recall)

    assert f1_score(answer, answers) == pytest.approx(max(map(squad, answers)))


@given(WORDS, ANSWERS, st.randoms())
def test_what_the_grade_does_not_depend_on(answer: str, answers: list[str], random: object) -> None:
    grade = exact_match(answer, answers), f1_score(answer, answers)
    dressed = f" The {answer.upper()}!"
    assert (exact_match(dressed, answers), f1_score(dressed, answers)) == grade
    turned = [*answers[::-1], answers[0]]
    assert (exact_match(answer, turned), f1_score(answer, turned)) == grade


@given(GOLDS, ANSWERS, GOLDS)
def test_bounds_of_the_grade(answer: str, answers: list[str], other: str) -> None:
    em, f1 = exact_match(answer, answers), f1_score(answer, answers)
    assert em in (0.0, 1.0)
    assert em <= f1 <= 1.0
    assert exact_match(answers[0], answers) == f1_score(answers[0], answers) == 1.0
    assert f1_score(answer, [*answers, other]) >= f1
    assert f1_score(answer, answers[:1]) == pytest.approx(f1_score(answers[0], [answer]))


EQUAL = [
    ("5", "5"),
    (" 5. ", "5"),
    ("1,234", "1234"),
    ("$18.90", "18.9"),
    (r"\$32,\!348", "32348"),
    ("0.5", "1/2"),
    (r"\frac12", "0.5"),
    (r"\dfrac{1}{2}", r"\frac{1}{2}"),
    (r"$\frac{1}{2}$", "1/2"),
    (r"\boxed{7}", "7"),
    (r"\sqrt{8}", r"2\sqrt 2"),
    ("x^2+2x+1", "(x+1)^2"),
    (r"\{2,1\}", r"\{1,2\}"),
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\pi/2)"),
    (r"\text{even}", "even"),
    (r"\cot x", r"\cot x"),
    ("x=5", "5"),
    (r"10\%", "10"),
    ("5 cm", "5"),
    ("18 apples", "18"),
    ("$18", "18"),
    ("18.0", "18"),
    (r"not \boxed{5} but \boxed{\frac{6}{1}}", "6"),
]
UNEQUAL = [
    ("5", "6"),
    ("", "5"),
    ("", ""),
    ("$", "5"),
    ("1 2", "12"),
    ("2 1/3", "21/3"),
    ("0.33", "1/3"),
    ("1/0", "1"),
    ("5 or 6", "5"),
    ("the answer is not 5", "5"),
    ("(1,2)", "(2,1)"),
    (r"\frac{1}{0}", "5"),
    (r"\leftarrow", "arrow"),
    ("é\ud800", "5"),
    ("}{", "5"),
]


@pytest.mark.parametrize(("answer", "gold"), EQUAL)
def test_equal_values(answer: str, gold: str) -> None:
    assert math_equal(answer, [gold])
    assert math_equal(answer, ["12345", gold])


@pytest.mark.parametrize(("answer", "gold"), UNEQUAL)
def test_unequal_values(answer: str, gold: str) -> None:
    assert not math_equal(answer, [gold])


@given(st.fractions(max_denominator=10**6), st.fractions(max_denominator=10**6))
def test_plain_numbers_are_compared_exactly(one: object, other: object) -> None:
    assert exact_value(str(one)) == one
    assert math_equal(str(one), [str(one)])
    assert math_equal(str(one), [str(other)]) == (one == other)


@given(st.integers(-(10**12), 10**12), st.integers(0, 999))
def test_decimals_and_thousands(whole: int, thousandths: int) -> None:
    text = f"{whole}.{thousandths:03}"
    assert math_equal(f"${whole:,}.{thousandths:03}000$", [text])
    assert not math_equal(f"{whole}.{thousandths:03}1", [text])


@settings(max_examples=40)
@given(st.text(r"\{}[]()$^_.,+-*/=!%0159abx frcqtimes" + "\x00\ud800é", max_size=40))
def test_no_text_is_an_error(text: str) -> None:
    assert math_equal(text, ["0.125"]) in (True, False)


def test_what_is_plain_needs_no_worker(fresh: worker.Verifier) -> None:
    assert math_equal("0.50", ["1/2"])
    assert not math_equal("7", ["8"])
    assert math_equal(r"x \le 3", [r"x\le3"])
    assert not math_equal("9" * (mathematics.MATH_CHARS + 1), ["9"])
    assert fresh._process is None


def test_an_endless_answer_is_wrong_and_the_next_is_judged(fresh: worker.Verifier) -> None:
    assert math_equal(r"\frac{2}{4}", ["x=0.5"])
    first = fresh._process
    started = time.monotonic()
    assert mathematics.math_grade(TOWER, ["5"]) == (False, "timeout")
    assert time.monotonic() - started > worker.MATH_SECONDS * 0.9
    assert first is not None
    assert first.poll() is not None, "the worker should have ended itself"
    assert math_equal(r"\frac{2}{4}", ["x=0.5"])
    assert fresh._process is not first


def test_only_comparing_is_timed_not_starting() -> None:
    """A comparison fits in a time in which math-verify could never be imported."""
    code = "from ovd_envs.grading import worker; worker.MATH_SECONDS = 0.25; worker.serve()"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert worker._ask(process, '["\\\\frac{2}{4}", "0.5"]') == "true\n"
    assert worker._ask(process, '["\\\\frac{2}{4}", "0.6"]') == "false\n"
    started = time.monotonic()
    assert worker._ask(process, f'["{TOWER}", "5"]') == ""
    assert time.monotonic() - started < 60  # it ended: how soon depends on the machine's load
    worker._end(process)


HOSTILE = [
    "__import__('os').system('touch {trap}')",
    r"\boxed{{__import__('os').system('touch {trap}')}}",
    "$open('{trap}','w')$",
    r"\immediate\write18{{touch {trap}}}",
    r"\input{{{trap}}}",
    "1+(open('{trap}','w') and 1)",
    "exec(chr(49))$",
    '6"]\n["8", "8"]\n[" {trap}',
]


@pytest.mark.parametrize("attack", HOSTILE)
def test_nothing_is_executed(attack: str, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    assert not math_equal(attack.format(trap=trap), ["5"])
    assert not math_equal("5x", [attack.format(trap=trap)])
    assert not trap.exists()
    assert math_equal(r"\frac{\sqrt{100}}{2}", ["5"]), "the worker's replies are in step"


def test_a_killed_worker_is_replaced(fresh: worker.Verifier) -> None:
    assert math_equal(r"\frac{\sqrt{100}}{2}", ["5"])
    assert fresh._process is not None
    fresh._process.kill()
    fresh._process.wait()
    assert math_equal(r"\frac{\sqrt{100}}{2}", ["5"])


def test_threads_share_one_worker(fresh: worker.Verifier) -> None:
    verdicts: dict[int, bool] = {}

    def judge(number: int) -> None:
        verdicts[number] = math_equal(rf"\frac{{\sqrt{{{number * number}}}}}{{2}}", ["2"])

    threads = [threading.Thread(target=judge, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == {number: number == 4 for number in range(8)}


def test_no_worker_outlives_its_program() -> None:
    code = r"""if True:
        from ovd_envs.grading import mathematics, worker
        assert mathematics.math_equal("\\frac{\\sqrt{100}}{2}", ["5"])
        print(worker.verifier._process.pid)
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=ROOT
    )
    assert (done.returncode, done.stderr) == (0, "")
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_has_a_worker_of_its_own() -> None:
    """A child that ends must not end its parent's worker, nor read its replies."""
    code = r"""if True:
        import os
        from ovd_envs.grading import mathematics, worker
        assert mathematics.math_equal("\\frac{\\sqrt{100}}{2}", ["5"])
        before = worker.verifier._process.pid
        child = os.fork()
        assert mathematics.math_equal("\\frac{\\sqrt{144}}{2}", ["6"])
        assert (worker.verifier._process.pid == before) == bool(child)
        if child:
            assert os.waitpid(child, 0)[1] == 0
            assert worker.verifier._process.poll() is None
    """
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_timeout_ends_the_comparison(monkeypatch):
    """Ten accepted answers cost a hostile one no more than the first."""
    asked = []
    monkeypatch.setattr(worker.verifier, "equal", lambda *pair: asked.append(pair) or "timeout")
    assert mathematics.math_grade("x+1", [f"y+{n}" for n in range(10)]) == (False, "timeout")
    assert len(asked) == 1


def test_what_math_verify_fails_on_is_marked(monkeypatch):
    monkeypatch.setattr(worker, "_ask", lambda process, line: "null\n")
    assert mathematics.math_grade("x+1", ["y", "z"]) == (False, "error")
    replies = iter(["null\n", "true\n"])
    monkeypatch.setattr(worker, "_ask", lambda process, line: next(replies))
    assert mathematics.math_grade("x+1", ["y", "z"]) == (True, "math-verify")


@pytest.mark.parametrize(
    ("text", "answers", "there"),
    [
        ("It was built in 1911.", ["1911"], True),
        ("It was built in 1911.", ["191", "11"], False),
        ("by The  Tower, the poem", ["a tower"], True),
        ("nothing of it", ["x", "Nothing"], True),
        ("anything", [], False),
        ("made in the US", ["U.S."], True),
        ("made in the U.S. of wood", ["US"], True),
        ("they are twenty-one", ["Twenty one"], True),
        ("a mark of 35", ["3.5"], False),
        ("a mark of 3.5.", ["3.5"], True),
        ("1,234 people", ["1234"], True),
        ("Zürich, in Switzerland", ["Zurich"], True),
        ("東京都に住む", ["東京"], True),
        ("O’Brien won", ["O'Brien"], True),
        ("there is no bridge", ["no"], False),
        ("written in C++", ["C++"], True),
        ("a band named The The", ["The The"], True),
        ("the end", ["The The"], False),
    ],
)
def test_a_text_mentions_whole_words(text, answers, there):
    assert mentions(text, answers) == there
