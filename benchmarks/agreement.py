"""How far the graders agree with people, and whether every accepted answer accepts itself.

    python benchmarks/agreement.py

Pairs with a person's verdict are read from shared/cases, sets of problems from shared/data/math
(`--cases`, `--data` name other folders); neither is part of this repository. Nothing may be paid
that a person finds wrong.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from ovd_envs.episode import Task
from ovd_envs.grading.mathematics import math_equal
from ovd_envs.grading.strict import strict_match
from ovd_envs.grading.text import exact_match
from ovd_envs.scenarios.mathematics import MathOptions, build
from ovd_envs.tasks.files import load_tasks

SHARED = Path(__file__).parents[2] / "shared"
GRADERS: dict[str, tuple[str, Callable[[str, Sequence[str]], float | bool]]] = {
    "mathematics": ("math_pairs.jsonl", math_equal),
    "questions, squad": ("qa_pairs.jsonl", exact_match),
    "questions, strict": ("qa_pairs.jsonl", strict_match),
}
FORMS = {
    "tag": "<answer>{}</answer>",
    "\\boxed": "So it is \\boxed{{{}}}.",
    "####": "So it is\n#### {}",
    "$": "<answer>${}$</answer>",
}
"""How a student may write an accepted answer."""


@dataclass(frozen=True)
class Options:
    """Print the agreement, and what disagrees."""

    cases: Path = SHARED / "cases"
    data: Path = SHARED / "data"


def main(options: Options) -> None:
    console = Console()
    table = Table("grader", "pairs", "agree", "right but not paid", "wrong but paid")
    misses: list[str] = []
    for name, (file, grader) in GRADERS.items():
        rows = [json.loads(line) for line in (options.cases / file).read_text().splitlines()]
        wrong = [row for row in rows if bool(grader(row["answer"], row["golds"])) != row["right"]]
        paid = sum(not row["right"] for row in wrong)
        agree = len(rows) - len(wrong)
        table.add_row(name, str(len(rows)), str(agree), str(len(wrong) - paid), str(paid))
        misses += [
            f"{name}: {row['answer']!r} for {row['golds']}" for row in wrong if "squad" not in name
        ]
    console.print(table)
    print("\n".join(misses))
    console.print(golds(options.data / "math"))


def golds(folder: Path) -> Table:
    """How many accepted answers accept themselves, by set and form."""
    table = Table("set", "problems", *FORMS)
    for path in sorted(each for each in folder.iterdir() if ".jsonl" in each.name):
        tasks = load_tasks(path)
        refused = {
            form: sum(not accepts(task, text) for task in tasks) for form, text in FORMS.items()
        }
        table.add_row(
            path.name, str(len(tasks)), *("all" if not n else f"not {n}" for n in refused.values())
        )
    return table


def accepts(task: Task, form: str) -> bool:
    action = SCENARIO.parse(form.format(task.answers[0]))
    return action.kind == "answer" and SCENARIO.grade(task, action.content).exact_match == 1.0


SCENARIO = build(MathOptions(count=1))[0]

if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
