"""Public benchmarks by name: where their files come from, and how they are played.

Files are looked for in the folder that the environment variable OVD_DATA names, as distributed or
in our own form; else they are fetched from the Hub by `datasets`.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from ovd_envs.episode import Task
from ovd_envs.errors import OptionError, TaskError
from ovd_envs.tasks.files import FORMS, load_tasks
from ovd_envs.tasks.rows import task_of

DATA_VARIABLE = "OVD_DATA"
Kind = Literal["questions", "problems"]
_PASSAGES = ("corpora", "corpus", "retrieval-corpus")
"""Folders whose files hold passages, often under the names of the questions."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A set of questions or problems. `files` are names under which its file is known, without
    their ending; `hub` is the repository, with the subset and the split; `corpus` is what papers
    search; `questions` is the fingerprint of the whole set, where that was at hand."""

    kind: Kind
    size: int
    files: tuple[str, ...]
    hub: tuple[str, str | None, str]
    licence: str
    corpus: str = ""
    questions: str = ""


WIKI_18 = "hub:PeterJinGo/wiki-18-corpus"
"""Wikipedia of December 2018 in passages of 100 words, as `ovd index build --corpus` takes it."""


def _flashrag(subset: str, split: str) -> tuple[str, str, str]:
    return "RUC-NLPIR/FlashRAG_datasets", subset, split


BENCHMARKS = {
    "nq": Benchmark(
        "questions",
        3610,
        ("nq_open", "NQ-open.dev", "nq"),
        _flashrag("nq", "test"),
        "CC BY-SA 3.0",
        WIKI_18,
        questions="f46fbbb4b4cd1fca",
    ),
    "triviaqa": Benchmark(
        "questions",
        11313,
        ("triviaqa", "triviaqa_1000"),
        _flashrag("triviaqa", "test"),
        "Apache-2.0",
        WIKI_18,
    ),
    "popqa": Benchmark(
        "questions",
        14267,
        ("popqa", "popQA", "popqa_1000"),
        _flashrag("popqa", "test"),
        "MIT",
        WIKI_18,
    ),
    "hotpotqa": Benchmark(
        "questions",
        7405,
        ("hotpot_dev_distractor_v1", "hotpot_dev_fullwiki_v1", "hotpotqa_dev", "hotpotqa"),
        _flashrag("hotpotqa", "dev"),
        "CC BY-SA 4.0",
        WIKI_18,
        questions="f1b5dc41564b2105",
    ),
    "2wikimultihopqa": Benchmark(
        "questions",
        12576,
        ("2wikimultihopqa_dev", "2wikimultihopqa"),
        _flashrag("2wikimultihopqa", "dev"),
        "Apache-2.0",
        WIKI_18,
        questions="faab7fa694118770",
    ),
    "musique": Benchmark(
        "questions",
        2417,
        ("musique_ans_v1.0_dev", "musique"),
        _flashrag("musique", "dev"),
        "CC BY 4.0",
        WIKI_18,
    ),
    "bamboogle": Benchmark(
        "questions",
        125,
        ("bamboogle",),
        _flashrag("bamboogle", "test"),
        "not stated",
        WIKI_18,
        questions="fc07fec0d1ced3be",
    ),
    "squad": Benchmark(
        "questions",
        10570,
        ("dev-v1.1", "squad_dev", "squad"),
        ("rajpurkar/squad", None, "validation"),
        "CC BY-SA 4.0",
        "the contexts of the set",
    ),
    "simpleqa": Benchmark(
        "questions",
        4326,
        ("simple_qa_test_set", "simpleqa"),
        ("basicv8vc/SimpleQA", None, "test"),
        "MIT",
        "the web, or a recent Wikipedia",
        questions="a22ce59999157fa2",
    ),
    "frames": Benchmark(
        "questions",
        824,
        ("frames",),
        ("google/frames-benchmark", None, "test"),
        "Apache-2.0",
        "the web, or a recent Wikipedia",
        questions="cd194be6755fe931",
    ),
    "gsm8k": Benchmark(
        "problems",
        1319,
        ("gsm8k_test", "gsm8k"),
        ("openai/gsm8k", "main", "test"),
        "MIT",
    ),
    "math500": Benchmark(
        "problems",
        500,
        ("math500", "MATH-500"),
        ("HuggingFaceH4/MATH-500", None, "test"),
        "MIT",
        questions="f8be59101a005801",
    ),
    "aime24": Benchmark(
        "problems",
        30,
        ("aime24", "aime_2024"),
        ("HuggingFaceH4/aime_2024", None, "train"),
        "not stated",
        questions="5b763f995cf66b83",
    ),
    "aime25": Benchmark(
        "problems",
        30,
        ("aime25", "aime_2025"),
        ("MathArena/aime_2025", None, "train"),
        "CC BY-NC-SA 4.0",
    ),
    "amc23": Benchmark(
        "problems",
        40,
        ("amc23",),
        ("math-ai/amc23", None, "test"),
        "not stated",
        questions="feb313b7f31375d9",
    ),
    "minerva": Benchmark(
        "problems",
        272,
        ("minerva", "minerva_math"),
        ("math-ai/minervamath", None, "test"),
        "not stated",
    ),
    "olympiadbench": Benchmark(
        "problems",
        675,
        ("olympiadbench", "OE_TO_maths_en_COMP"),
        ("Hothan/OlympiadBench", "OE_TO_maths_en_COMP", "train"),
        "MIT",
        questions="87291d244d80d701",
    ),
}
"""As the sets are usually evaluated; sizes are those of the whole sets."""


@dataclass(frozen=True, slots=True)
class Frozen:
    """Generated tasks that stay the same: the options of their environment, and the fingerprint of
    the tasks that these must give."""

    name: str
    kind: Kind
    options: Mapping[str, Any]
    fingerprint: str

    def built(self, options: Any, build: Callable[[Any], tuple[Any, Sequence[Task]]]) -> Any:
        """What `build` makes of an environment's options with those of this benchmark.

        Raises OptionError for another environment's, TaskError where the tasks have changed.
        """
        if not all(hasattr(options, name) for name in self.options):
            raise OptionError(f"tasks={self.name!r} are {self.kind}: choose their environment")
        scenario, tasks = build(replace(options, tasks=None, split="test", **self.options))
        if (found := fingerprint(tasks)) != self.fingerprint:
            raise TaskError(
                f"{self.name} gives other tasks here than it should ({found}, not"
                f" {self.fingerprint}), so that figures would not compare: install a release"
            )
        return scenario, tasks


_WORLD = {"hops": (1, 2), "world_seed": 2, "passages": 2000, "search": None, "top_k": 1}
FROZEN = {
    each.name: each
    for each in (
        Frozen(
            "ovd/fiction-v1",
            "questions",
            {**_WORLD, "count": 200, "max_turns": 3},
            "7e04c71b80b86b8c",
        ),
        Frozen(
            "ovd/arithmetic-v1",
            "problems",
            {"levels": (1, 2, 3), "world_seed": 2, "count": 200, "max_turns": 4},
            "bffe0d00d1bbb3e4",
        ),
    )
}
"""Our own; what we publish is measured on these."""


def frozen_of(tasks: object) -> Frozen | None:
    """The frozen benchmark that an environment's option `tasks` names."""
    return FROZEN.get(tasks) if isinstance(tasks, str) else None


def benchmark(name: str) -> Benchmark | Frozen:
    """Raises TaskError naming the benchmarks there are."""
    known = BENCHMARKS | FROZEN
    if name not in known:
        raise TaskError(f"benchmark {name!r} is not known: expected one of {', '.join(known)}")
    return known[name]


def load_benchmark(name: str) -> Sequence[Task]:
    """The tasks of a benchmark, from OVD_DATA, or else from the Hub.

    Raises TaskError, which says which file to put where, if it is in neither.
    """
    chosen = BENCHMARKS[name]
    path = find_file(chosen)
    return load_tasks(path) if path is not None else _from_hub(name, chosen)


def find_file(chosen: Benchmark) -> Path | None:
    """The benchmark's file in OVD_DATA, in the folder itself or one folder below."""
    root = os.environ.get(DATA_VARIABLE)
    if not root:
        return None
    for stem in chosen.files:
        for ending in FORMS:
            name = f"{stem}{ending}"
            for path in sorted([*Path(root).glob(name), *Path(root).glob(f"*/{name}")]):
                if path.parent.name not in _PASSAGES:
                    return path
    return None


def _from_hub(name: str, chosen: Benchmark) -> Sequence[Task]:
    repository, subset, split = chosen.hub
    where = (
        f"set {DATA_VARIABLE} to a folder with {chosen.files[0]}"
        f"{{{','.join(FORMS)}}}, as distributed"
    )
    if importlib.util.find_spec("datasets") is None:
        raise TaskError(f'benchmark {name!r}: {where}, or fetch it: pip install "ovd[index]"')
    datasets: Any = importlib.import_module("datasets")
    try:
        rows = datasets.load_dataset(repository, subset, split=split)
    except Exception as error:  # whatever the Hub's client raises, the file is not to be had
        why = (str(error).strip().splitlines() or [type(error).__name__])[0][:150]
        raise TaskError(
            f"benchmark {name!r} is not to be had from {repository} ({why}): {where}"
        ) from None
    return [task_of(row, f"{repository}, row {n}", f"{name}-{n}") for n, row in enumerate(rows)]


def fingerprint(tasks: Sequence[Task]) -> str:
    """Of which tasks a figure is: their ids and texts in order."""
    digest = hashlib.sha256()
    for task in tasks:
        digest.update(f"{task.id}\0{task.prompt}\0".encode("utf-8", "replace"))
    return digest.hexdigest()[:16]


def questions_fingerprint(tasks: Sequence[Task]) -> str:
    """Of which questions a file holds, whatever its form, ids and order."""
    texts = sorted({" ".join(task.prompt.split()) for task in tasks})
    return hashlib.sha256("\0".join(texts).encode("utf-8", "replace")).hexdigest()[:16]


def is_whole(name: str, tasks: Sequence[Task]) -> bool | None:
    """Whether these are all questions of a benchmark, and no others; None where only their number
    is known, and is right."""
    chosen = benchmark(name)
    if isinstance(chosen, Frozen):
        return True
    if not chosen.questions:
        return None if len(tasks) == chosen.size else False
    return questions_fingerprint(tasks) == chosen.questions


def given_tasks(tasks: object) -> Sequence[Task]:
    """Tasks as an environment's option holds them: a file's path, a benchmark's name, or a list.

    Raises TaskError for a bad file, OptionError for anything else.
    """
    if isinstance(tasks, str | Path):
        named = str(tasks) in BENCHMARKS and not Path(tasks).exists()
        return load_benchmark(str(tasks)) if named else load_tasks(tasks)
    items = cast("Sequence[Any]", tasks) if isinstance(tasks, Sequence) else ()
    if not items or not isinstance(items[0], Task):
        raise OptionError(
            f"tasks={tasks!r:.100}: expected a file of tasks, the name of a benchmark"
            f" ({', '.join(BENCHMARKS)}), or a list of Tasks"
        )
    return cast("Sequence[Task]", items)
