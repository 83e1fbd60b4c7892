"""Real engines with real weights, in this process and served; `make test-vllm` runs these."""

import copy

import pytest
import torch
from vllm_server import STUDENT

from ovd_agent.models import checkpoint_path, load_model
from ovd_agent.policies.torch_policy import TorchPolicy


@pytest.fixture(scope="session")
def loaded():
    return load_model(STUDENT)


@pytest.fixture(scope="session")
def checkpoint():
    return checkpoint_path(STUDENT)


@pytest.fixture
def reference(loaded):
    """The policy in this process, on the same weights."""
    return TorchPolicy(*loaded, slots=16, max_length=448)


@pytest.fixture(scope="session")
def moved(loaded):
    """The student after a change that a probe must see."""
    other = copy.deepcopy(loaded[0])
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in other.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight += 0.1 * weight.std().nan_to_num() * noise
    return other
