"""A random tiny student and small environments, made once."""

import pytest

from ovd_agent.models import tiny_model
from ovd_envs.make import make_scenario


@pytest.fixture(scope="session")
def webqa():
    return make_scenario("ovd/WebQA-v0", passages=100, count=30, top_k=1)


@pytest.fixture(scope="session")
def arithmetic():
    return make_scenario("ovd/Math-v0", count=30)


@pytest.fixture(scope="session")
def tokenizer():
    return tiny_model()[1]


@pytest.fixture
def student():
    return tiny_model()[0]
