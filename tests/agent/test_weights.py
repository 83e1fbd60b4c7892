"""Weights on their way to an engine: whole, tied ones once; other weights fail the probe."""

import contextlib
import math
import random

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_model

from ovd_agent.policies.base import PolicyUnavailable
from ovd_agent.policies.publish import Probe, write_weights


@pytest.mark.parametrize("tied", [True, False])
def test_weights_are_written_whole_and_tied_ones_once(tmp_path, tied):
    model = tiny_model(tied=tied)
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "leftover").touch()
    for version in (0, 3, 3):
        folder = write_weights(model, tmp_path, version)
    assert [path.name for path in tmp_path.iterdir()] == ["version-3"]
    assert [path.name for path in folder.iterdir()] == ["model.safetensors"]
    stored = load_file(folder / "model.safetensors")
    weights = model.state_dict()
    assert set(weights) - set(stored) == ({"lm_head.weight"} if tied else set())
    assert all(torch.equal(stored[name], weights[name]) for name in stored)


def test_the_learner_side_of_the_probe_is_the_plain_log_probability(student, tokenizer):
    probe = Probe.of(tokenizer)
    with torch.no_grad():
        logits = student(input_ids=torch.tensor([probe.ids])).logits[0].log_softmax(-1)
    naive = [float(logits[place, token]) for place, token in enumerate(probe.ids[1:])]
    exact, rounded = probe.expected(student)
    assert exact == pytest.approx(naive, abs=1e-5)
    assert exact != rounded == pytest.approx(naive, abs=0.1)
    assert len(probe.ids) > 60


def test_the_limit_is_what_the_first_publication_showed():
    probe, expected = Probe([1, 2, 3]), [[-1.0, -2.0]]
    assert probe.check(expected, {"engine": [-1.06, -2.06]}) == pytest.approx(0.06)
    assert probe.limit == pytest.approx(0.181)
    probe.check(expected, {"engine": [-1.0, -2.0]})
    assert probe.limit == pytest.approx(0.181)  # a luckier one does not tighten it
    with pytest.raises(PolicyUnavailable, match=r"engine does not serve .* at most 0\.181"):
        probe.check(expected, {"engine": [-1.3, -2.3]})


def test_an_engine_that_rounds_weights_is_compared_with_rounded_ones():
    probe = Probe([1, 2, 3])
    probe.check([[-1.0, -2.0], [-1.0, -2.1]], {"engine": [-1.02, -2.02]})
    rounded = [[-1.0, -2.0], [-1.3, -2.4]]  # after an update, in which rounding has grown
    assert probe.check(rounded, {"engine": [-1.31, -2.41]}) == pytest.approx(0.01)
    with pytest.raises(PolicyUnavailable):
        probe.check(rounded, {"engine": [-1.15, -2.2]})


@pytest.mark.parametrize("found", [[math.nan, -2.0], [-1.0, -2.6]])
def test_other_numbers_and_no_numbers_fail(found):
    with pytest.raises(PolicyUnavailable):
        Probe([1, 2, 3]).check([[-1.0, -2.0]], {"engine": found})


def noisy(values, seed, size=0.03):
    rng = random.Random(seed)
    return [value + rng.gauss(0, size) for value in values]


@pytest.mark.parametrize("stale", [False, True])
def test_a_small_update_is_told_from_old_weights_within_the_limit(stale):
    """As measured after an update at 2e-5: 0.035 nats of change, in the noise of bfloat16."""
    old = [-2.0] * 80
    new = [value + 0.05 * (-1) ** place for place, value in enumerate(old)]
    for seed in range(50):
        probe = Probe(list(range(81)))
        probe.check([old, old], {"one": noisy(old, seed)})
        engines = {"one": noisy(new, seed + 1000), "two": noisy(old if stale else new, seed + 2000)}
        if stale:
            with pytest.raises(PolicyUnavailable, match=r"two does not serve .* but older ones"):
                probe.check([new, new], engines)
        else:
            assert probe.check([new, new], engines) < 0.05


def test_old_weights_are_noticed_once_small_changes_add_up():
    values = [[-2.0 + 0.004 * step * (-1) ** place for place in range(80)] for step in range(20)]
    probe = Probe(list(range(81)))
    probe.check([values[0]], {"one": noisy(values[0], 0, 0.01)})
    told = 0
    with contextlib.suppress(PolicyUnavailable):
        for told in range(1, 20):
            probe.check([values[told]], {"one": noisy(values[0], told, 0.01)})
    assert told < 5
    probe = Probe(list(range(81)))
    for step, value in enumerate(values):
        probe.check([value], {"one": noisy(value, step, 0.01)})
