"""Figures of an evaluation, against independent computations."""

import json

import numpy as np
import pytest

from ovd_agent.cli import main
from ovd_agent.runs.evaluate import bootstrap, majority, summarise, wilson
from ovd_agent.runs.published import packed_grades, paired, published, read_record
from ovd_envs.episode import Episode, Task, Turn
from ovd_envs.errors import OptionError
from ovd_envs.scenarios import mathematics, webqa
from ovd_envs.tasks.benchmarks import FROZEN
from retrieval_index import build_index
from retrieval_index.documents import Document


def test_wilson_against_published_values():
    # Newcombe (1998), table I: 81 of 263, 15 of 148, 0 of 20.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


def test_wilson_covers_the_truth_nineteen_times_in_twenty():
    rng = np.random.default_rng(0)
    drawn = rng.binomial(300, 0.4, size=2000)
    covered = [low <= 0.4 <= high for low, high in (wilson(n, 300) for n in drawn)]
    assert 0.93 < np.mean(covered) < 0.97


def test_bootstrap_of_a_constant_and_of_a_coin():
    assert bootstrap([0.5] * 50) == (0.5, 0.5)
    low, high = bootstrap([0.0, 1.0] * 200)
    assert (low, high) == pytest.approx((0.451, 0.549), abs=0.01)


def test_summary_per_hop():
    def episode(hops, match, ending):
        task = Task("t", "?", ("a",), hops)
        return Episode(task, "?", terminated=True, end_reason=ending, exact_match=match, f1=match)

    endings = (1, 1.0, "answered"), (1, 0.0, "answered"), (2, None, "invalid_limit")
    result = summarise([episode(*ending) for ending in endings])
    assert result["count"] == 3
    assert result["em"] == pytest.approx(1 / 3)
    assert result["answered"] == pytest.approx(2 / 3)  # the third ended without an answer
    assert {hop: row["em"] for hop, row in result["per_hop"].items()} == {"1": 0.5, "2": 0.0}


def of(task, answer, match):
    action = f"<answer>{answer}</answer>"
    turns = [] if answer is None else [Turn(action, "answer", answer)]
    return Episode(task, "?", 0, turns, exact_match=match, f1=match)


@pytest.mark.parametrize(
    ("answers", "right"),
    [
        (["Paris", "the paris", "Rome", "Rome", "Paris."], 1.0),
        (["Rome", "Rome", "Paris"], 0.0),
        (["Rome", "Paris"], 0.5),  # of two that most gave
        ([None, None, "Paris"], 1.0),
        ([None, None], 0.0),
    ],
)
def test_the_answer_that_most_samples_gave(answers, right):
    scenario, _ = webqa.build(webqa.WebQAOptions(count=1, passages=200))
    task = Task("t", "?", ("Paris",))
    episodes = [
        of(task, answer, float(answer is not None and "aris" in answer)) for answer in answers
    ]
    assert majority(episodes, scenario) == right


def test_equal_numbers_vote_together():
    scenario, _ = mathematics.build(mathematics.MathOptions(count=1))
    task = Task("t", "?", ("1/2",))
    episodes = [of(task, "0.5", 1.0), of(task, "\\frac{1}{2}", 1.0), *[of(task, "3", 0.0)] * 2]
    assert majority([*episodes, of(task, "1/2", 1.0)], scenario) == 1.0


def test_intervals_are_over_questions():
    """50 questions, each sampled 16 times with equal results: 50 draws and not 800."""
    tasks = [Task(f"t{n}", "?", ("a",)) for n in range(50)]
    episodes = [of(task, "a", float(n < 25)) for n, task in enumerate(tasks) for _ in range(16)]
    found = summarise(episodes, 16)
    assert found["em"] == 0.5
    assert (found["em_low"], found["em_high"]) == pytest.approx((0.366, 0.634), abs=0.03)


def record(path, grades, tasks="abc", samples=1):
    path.write_text(
        json.dumps(
            {"grades": grades, "samples": samples, "tasks_fingerprint": tasks, "benchmark": "x"}
        )
    )
    return read_record(path)


def test_runs_are_compared_question_by_question(tmp_path):
    grades = np.random.default_rng(0).integers(0, 2, size=(2, 300))
    mine, other = (
        record(tmp_path / f"{n}.json", packed_grades(row.astype(float), 1))
        for n, row in enumerate(grades)
    )
    found = paired(mine, other)
    assert found.mean == pytest.approx((grades[0] - grades[1]).mean())
    spread = (grades[0] - grades[1]).std() / np.sqrt(300)
    assert found.high - found.low == pytest.approx(2 * 1.96 * spread, rel=0.1)
    same = paired(mine, mine)
    assert (same.mean, same.low, same.high) == (0.0, 0.0, 0.0)


def test_other_tasks_are_no_pairs(tmp_path):
    mine = record(tmp_path / "a.json", "1 0")
    with pytest.raises(OptionError, match="were evaluated on other tasks"):
        paired(mine, record(tmp_path / "b.json", "1 0", tasks="other"))
    (tmp_path / "old.json").write_text('{"em": 0.5}')
    with pytest.raises(OptionError, match="holds no grades by question"):
        read_record(tmp_path / "old.json")
    with pytest.raises(OptionError, match="no such file"):
        read_record(tmp_path / "none.json")


def test_grades_are_packed_by_task(tmp_path):
    packed = packed_grades([1.0, 1.0, 0.0, 0.0, 1.0, 0.0], 2)
    assert packed == "2 0 1"
    assert record(tmp_path / "a.json", packed, samples=2).grades == [1.0, 0.0, 0.5]


def test_what_is_published_is_of_tasks_that_there_are():
    records = published()
    assert records
    for each in records:
        if each.benchmark in FROZEN:
            assert each.tasks == FROZEN[each.benchmark].fingerprint
            assert len(each.grades) == FROZEN[each.benchmark].options["count"]


def test_hotpotqas_own_file_is_evaluated_and_compared(tmp_path, monkeypatch, capsys):
    """What docs/environments.md tells a reader to do with the file as it is distributed."""
    rows = [
        {
            "_id": f"q{n}",
            "question": f"Who lives in town {n}?",
            "answer": f"Ada {n}",
            "supporting_facts": [[f"Town {n}", 0]],
            "context": [[f"Town {n}", [f"Ada {n} lives here."]]],
        }
        for n in range(6)
    ]
    (tmp_path / "data").mkdir()
    (tmp_path / "data/hotpot_dev_distractor_v1.json").write_text(json.dumps(rows))
    monkeypatch.setenv("OVD_DATA", str(tmp_path / "data"))
    passages = [Document(f"p{n}", f"Town {n}", f"Ada {n} lives here.") for n in range(6)]
    build_index(passages, tmp_path / "index")
    command = ["evaluate", "--student", "tiny", "--benchmark", "hotpotqa", "--count", "4"]
    command += ["--search", str(tmp_path / "index"), "--rollout.max-length", "900"]
    command += ["--rollout.max-new-tokens", "4", "--samples", "2", "--temperature", "1"]
    command += ["--feedback", "5", "--tries", "1", "--out", str(tmp_path / "mine")]
    assert main.main(command) == 0
    shown = capsys.readouterr().out
    assert "4 tasks of hotpotqa" in shown
    assert "other questions than the whole of hotpotqa" in shown
    assert "avg@2" in shown
    assert "steps were sampled again" in shown
    result = json.loads((tmp_path / "mine/result.json").read_text())
    assert (result["benchmark"], result["grades"]) == ("hotpotqa", "0 0 0 0")
    assert set(result["pass_at"]) == {"1", "2"}
    assert set(result["maj_at"]) == {"2"}
    assert result["feedback"]["scored_steps"] > 0
    mine = str(tmp_path / "mine")
    assert main.main(["compare", "--run", mine, "--against", mine]) == 0
    assert "| mine | hotpotqa | 4 | 2 | 0.000 |" in capsys.readouterr().out
    assert main.main(["compare", "--run", mine]) == 2
    assert "nothing is published on these 4 tasks" in capsys.readouterr().err
