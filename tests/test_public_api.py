"""The public names. A change here is a line in CHANGELOG.md."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from importlib.metadata import version

import pytest

import ovd_agent
import ovd_envs
import retrieval_index

PUBLIC = {
    "ovd_envs": """
        Demonstrator Episode Grade IndexSearch Judge LLMOptions LLMTeacher OVDError OptionError
        Options OracleTeacher Response Scenario ScoreRequest SearchEngine SearchRequest
        SearchUnavailable Task Teacher TeacherUnavailable TextEnv TextVectorEnv Turn VerbalScore
        environments make_scenario register""",
    "ovd_agent": """
        CISPO DAPO DrGRPO GSPO OVDContinue OVDRank RLOO ReinforcePP
        Advantage Algorithm Context DemonstrationConfig GRPO Group Learner LearnerConfig LoraConfig
        LossComponent Needs OVD PolicyTerm Rollout RolloutConfig SFT Tokens TrainConfig Trainer
        TrainingRow Trajectory Wants evaluate imitation_row load_model policy_row ratio_one_row
        shaped_row""",
    "retrieval_index": """
        CorpusError Document Encoder EncoderError HashingEncoder IndexExistsError IndexFileError
        MissingPackageError PassageIndex Reranked RetrievalClient RetrievalError
        SentenceTransformerEncoder build_index make_encoder read_corpus update_index""",
}
SIGNATURES = {
    "ovd_envs:register": "(env_id, *, scenario, options, **spec)",
    "ovd_envs:make_scenario": "(env_id, **options)",
    "ovd_envs:Judge.score": "(self, requests)",
    "ovd_envs:Demonstrator.act": "(self, episodes)",
    "ovd_envs:SearchEngine.search": "(self, requests, k)",
    "ovd_envs:Scenario.advance": "(self, episodes, actions)",
    "ovd_envs:Scenario.resume": "(self, episode, turn)",
    "ovd_envs:Scenario.play_on": "(self, episodes, actor)",
    "ovd_agent:Trainer": "(config)",
    "ovd_agent:Algorithm.rows": "(self, group, context)",
    "ovd_agent:LossComponent.loss": "(self, tokens)",
    "ovd_agent:Learner.update": "(self, rows, seed, progress)",
    "retrieval_index:PassageIndex.search": "(self, queries, k, mode)",
}


@pytest.mark.parametrize("package", PUBLIC)
def test_the_public_names(package: str) -> None:
    module = importlib.import_module(package)
    assert sorted(module.__all__) == sorted(PUBLIC[package].split())
    for name in module.__all__:
        assert inspect.getdoc(getattr(module, name)), f"{name} has no docstring"
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = module.nothing


@pytest.mark.parametrize("path", SIGNATURES)
def test_the_public_signatures(path: str) -> None:
    package, _, attribute = path.partition(":")
    found = importlib.import_module(package)
    for name in attribute.split("."):
        found = getattr(found, name)
    words = []
    for parameter in inspect.signature(found).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in words:
            words.append("*")
        stars = {parameter.VAR_KEYWORD: "**", parameter.VAR_POSITIONAL: "*"}
        words.append(stars.get(parameter.kind, "") + parameter.name)
    assert f"({', '.join(words)})" == SIGNATURES[path]


def test_the_version_is_that_of_the_package() -> None:
    assert ovd_envs.__version__ == ovd_agent.__version__ == version("ovd")


def test_there_is_one_error_tree() -> None:
    for name in ("RetrievalError", "IndexFileError", "EncoderError"):
        assert issubclass(getattr(retrieval_index, name), ovd_envs.OVDError)
    for name in ("OptionError", "SearchUnavailable", "TeacherUnavailable"):
        assert issubclass(getattr(ovd_envs, name), ovd_envs.OVDError)


@pytest.mark.parametrize("package", PUBLIC)
def test_importing_loads_nothing_heavy(package: str) -> None:
    code = f"import sys, {package}; print([m for m in HEAVY if m in sys.modules])"
    heavy = "HEAVY = 'torch transformers vllm faiss datasets sentence_transformers'.split()\n"
    done = subprocess.run([sys.executable, "-c", heavy + code], capture_output=True, check=True)
    assert done.stdout.decode().strip() == "[]"
