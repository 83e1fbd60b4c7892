"""A random tiny student and small environments, made once."""

import functools

import pytest
from student_server import StudentServer

from ovd_agent.models import tiny_model
from ovd_envs.registry import make_scenario


@pytest.fixture(scope="session")
def webqa():
    return make_scenario(
        "ovd/WebQA-v0", passages=100, count=30, hops=(1, 2, 3), max_turns=5, max_invalid=None
    )


@pytest.fixture(scope="session")
def arithmetic():
    return make_scenario("ovd/Math-v0", count=30, max_turns=8)


@pytest.fixture(scope="session")
def tokenizer():
    return tiny_model()[1]


@pytest.fixture
def student():
    return tiny_model()[0]


@pytest.fixture
def serve(student, tokenizer):
    """Starts servers of the student, which end with the test."""
    started = []

    def start(plan=lambda number: None, kind=StudentServer, **options):
        started.append(kind(student, tokenizer, plan, **options))
        return started[-1]

    start.quick = functools.partial(start, quick=True)

    yield start
    for server in started:
        if not server.dead:
            server.die()
