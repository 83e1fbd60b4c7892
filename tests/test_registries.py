"""One table a kind; a name of a set stands in its table and its own file, nowhere else."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from ovd_agent.algorithms import ALGORITHMS
from ovd_agent.engines import ENGINES
from ovd_agent.losses import LOSSES
from ovd_agent.policies import POLICIES
from ovd_envs.registry import environments, make_scenario
from ovd_envs.search import SEARCH_ENGINES
from ovd_envs.teachers import TEACHERS
from retrieval_index import registry
from retrieval_index.encoders import ENCODERS
from retrieval_index.errors import OptionError
from retrieval_index.registry import Registry

ROOT = Path(__file__).parents[1]
PACKAGES = ("retrieval_index", "ovd_envs", "ovd_agent")
OURS = [name for name in environments() if name.startswith("ovd/")]
"""Other tests of this process may have registered more."""
HOMES = {
    **{name: {"ovd_envs/scenarios/__init__.py"} for name in OURS},
    **{
        n: {f"ovd_agent/algorithms/{n}.py", "ovd_agent/algorithms/__init__.py"}
        for n in ALGORITHMS.names()
    },
    "oracle": {"ovd_envs/teachers/__init__.py", "ovd_envs/teachers/oracle/teacher.py"},
    "openai": {"ovd_envs/teachers/__init__.py", "ovd_envs/teachers/llm/teacher.py"},
    "pg": {"ovd_agent/losses/policy_gradient.py"},
    "ce": {"ovd_agent/losses/cross_entropy.py"},
    "kl": {"ovd_agent/losses/kl.py"},
    "distill": {"ovd_agent/losses/distillation.py"},
    "divergence": {"ovd_agent/losses/divergence.py"},
    "shaped": {"ovd_agent/losses/shaped.py", "ovd_agent/algorithms/ovd.py"},  # also a choice there
    "vllm": {
        "ovd_agent/policies/__init__.py",
        "ovd_agent/policies/vllm_policy.py",
        "ovd_agent/cli/serve_model.py",
    },
    "trl": {
        "ovd_agent/engines/__init__.py",
        "ovd_agent/engines/trl_run.py",
    },  # also a folder's name
    "verl": {"ovd_agent/engines/__init__.py", "ovd_agent/engines/verl_run.py"},  # a folder, too
    "simulated": {"ovd_envs/search/__init__.py"},
    "environment_agent": {"ovd_envs/teachers/__init__.py"},
    "hashing": {"retrieval_index/encoders.py"},
    "minilm": {"retrieval_index/encoders.py"},
}
OTHERS = {
    "oracle": {"ovd_agent/cli/players.py", "ovd_envs/search/simulated/engine.py"},
    "ovd": {
        *("ovd_agent/__init__.py", "ovd_envs/__init__.py"),
        *("ovd_envs/cache.py", "retrieval_index/evaluate.py", "ovd_agent/cli/doctor.py"),
        *("ovd_agent/runs/loggers.py", "ovd_agent/engines/verl_run.py"),
    },
    "vllm": {"ovd_agent/cli/doctor.py", "ovd_agent/engines/verl_run.py"},
    "trl": {"ovd_agent/cli/doctor.py"},
    "verl": {"ovd_agent/cli/doctor.py"},
    "grpo": {"ovd_agent/engines/verl_run.py"},
}
"""Where the word is the name of a player, of a package, or an option of one."""


def literals(path: Path) -> set[str]:
    """Texts in the code of a file, its documentation left out."""
    tree = ast.parse(path.read_text("utf-8"))
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if id(node) not in documentation
    }


def test_a_name_of_a_set_stands_in_its_table_and_its_own_file_only() -> None:
    found: dict[str, set[str]] = {name: set() for name in HOMES}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            where = str(path.relative_to(ROOT))
            for name in literals(path) & HOMES.keys():
                found[name].add(where)
    strangers = {
        name: sorted(files - HOMES[name] - OTHERS.get(name, set())) for name, files in found.items()
    }
    assert {name: files for name, files in strangers.items() if files} == {}


def test_every_name_is_looked_for() -> None:
    tables = (ALGORITHMS, TEACHERS, LOSSES, ENCODERS)
    names = {name for table in tables for name in table.names()} | {*OURS}
    # "torch", "index" and "model" are words of their own, and addresses begin with "http".
    assert names - HOMES.keys() == {"model"}
    assert {*POLICIES.names()} - HOMES.keys() == {"torch", "auto", "http", "https"}
    assert {*ENGINES.names()} - HOMES.keys() == {"local"}
    assert {*SEARCH_ENGINES.names()} - HOMES.keys() == {"index", "http", "https", "qdrant"}


@dataclass(frozen=True)
class Part:
    size: int = 3
    name_of_it: str = "x"


def table() -> Registry[Part]:
    made: Registry[Part] = Registry("part", "test.parts")
    made.register("part", lambda part: part, Part, lambda rest: {"size": int(rest)})
    made.register("plain", lambda: Part(0))
    return made


def test_the_four_forms_are_one() -> None:
    parts = table()
    forms = ("part:5", {"name": "part", "size": 5}, Part(5), parts.choose("part:5"))
    assert [parts.choose(form).build() for form in forms] == [Part(5)] * 4
    records = [parts.choose(form).record() for form in forms]
    assert records == [{"name": "part", "size": 5, "name_of_it": "x"}] * 4
    outside = parts.choose({"name": f"{__name__}:Part", "size": 5})
    assert outside.build() == Part(5)
    assert parts.choose("plain").build() == Part(0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("prat", "no part is called 'prat': did you mean 'part'"),
        ({"name": "part", "sise": 1}, "part 'part' has no option 'sise': did you mean 'size'"),
        ({"name": "part", "size": "1"}, "size='1': expected an integer"),
        ({"name": "part", "size": True}, "size=True: expected an integer"),
        ({"name": "plain", "size": 1}, "part 'plain' has no options: leave out size"),
        ({"size": 1}, 'expected a "name" in it'),
        ("no.module:Thing", "there is no module 'no.module' here"),
        ("json:thing", "json has no 'thing'"),
        ("json:__all__", "expected a class or a function"),
        ("plain:5", "expected 'plain', without '5'"),
        (Part, "expected a name"),
        (None, "expected a name"),
    ],
)
def test_a_bad_part_is_one_sentence(given: object, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        table().choose(given)


def test_a_module_that_breaks_says_so_itself(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "breaks.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        table().choose("breaks:Thing")


def test_a_package_adds_parts_by_entry_points(monkeypatch) -> None:
    point = EntryPoint("added", f"{__name__}:Part", "test.parts")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point][: group == "test.parts"])
    parts = table()
    assert parts.names() == ["added", "part", "plain"]
    choice = parts.choose({"name": "added", "size": 7})
    assert choice.build() == Part(7)
    assert choice.record()["name"] == "added"


def test_a_package_adds_environments_by_entry_points(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "added_env.py").write_text(
        "from ovd_envs import register\n"
        "register('added/Math-v0', scenario='ovd_envs.scenarios.mathematics:build',"
        " options='ovd_envs.scenarios.mathematics:MathOptions')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    point = EntryPoint("any", "added_env", "ovd.environments")
    monkeypatch.setattr("ovd_envs.registry.entry_points", lambda group: [point])
    scenario, tasks = make_scenario("added/Math-v0", count=3)
    assert len(tasks) == 3
    assert "added/Math-v0" in environments()
    import gymnasium

    assert gymnasium.make("added/Math-v0").unwrapped.scenario.options.max_turns == 4
    del gymnasium.registry["added/Math-v0"]


def test_an_environment_of_others_is_no_scenario() -> None:
    with pytest.raises(OptionError, match="was not registered by ovd_envs"):
        make_scenario("CartPole-v1")
