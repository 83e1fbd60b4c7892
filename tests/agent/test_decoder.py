"""Sampling from logits, and decoding steps that are recorded and looked at later."""

from __future__ import annotations

import pytest
import torch

from ovd_agent.policies.base import Sampling
from ovd_agent.policies.decoder import Decoder, _Recorded
from ovd_agent.policies.sampling import BLOCK, Draw, sample
from ovd_agent.policies.torch_policy import TorchPolicy

CPU = torch.device("cpu")
SIZES = (5, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 5 * BLOCK + 7)


def naive(logits, uniform):
    """Inversion over the whole vocabulary, in float64."""
    ends = logits.double().softmax(-1).cumsum(-1)
    target = uniform.double()[:, None] * ends[:, -1:]
    return torch.searchsorted(ends, target, right=True)[:, 0]


@pytest.mark.parametrize("size", SIZES)
def test_a_token_is_found_by_inversion(size):
    torch.manual_seed(size)
    logits, uniform = 4 * torch.randn(500, size), torch.rand(500)
    chosen, logprobs = sample(logits, uniform, Draw.of([Sampling()] * 500, CPU))
    # Where the random number lies on the border of two tokens, rounding decides.
    assert (chosen == naive(logits, uniform)).float().mean() > 0.99
    expected = logits.log_softmax(-1).gather(1, chosen[:, None])[:, 0]
    assert torch.allclose(logprobs, expected, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("number", [0.0, 0.5, 1 - 2**-24])
def test_a_token_without_probability_is_never_taken(size, number):
    torch.manual_seed(0)
    for keep in (0, size // 2, size - 1):
        logits = torch.full((1, size), -torch.inf)
        logits[0, keep] = 3.0
        chosen, logprobs = sample(logits, torch.tensor([number]), Draw.of([Sampling()], CPU))
        assert chosen.item() == keep
        assert logprobs.item() == pytest.approx(0, abs=1e-6)


def test_rows_are_sampled_as_each_asks():
    torch.manual_seed(0)
    logits, uniform = torch.randn(1, 700).repeat(4, 1), torch.full((4,), 0.9)
    asked = [Sampling(), Sampling(temperature=0), Sampling(temperature=0.5), Sampling(top_p=0.1)]
    together = sample(logits, uniform, Draw.of(asked, CPU))
    for row, sampling in enumerate(asked):
        alone = sample(logits[:1], uniform[:1], Draw.of([sampling], CPU))
        assert together[0][row] == alone[0][0]
        assert torch.allclose(together[1][row], alone[1][0], atol=1e-5)
    assert together[0][1] == logits[0].argmax()
    # The log-probability of a greedy token is the model's own; that of the others, the sampler's.
    assert torch.allclose(together[1][1], logits[0].log_softmax(-1).max(), atol=1e-5)
    sharper = (logits[0] / 0.5).log_softmax(-1)[together[0][2]]
    assert torch.allclose(together[1][2], sharper, atol=1e-5)


class Replayed:
    """What a CUDA graph does, on a processor: the same step over the same tensors."""

    def __init__(self, decoder, rows, step, reach, steps_taken) -> None:
        self.step = lambda: decoder._step(rows, step, reach)
        self.taken = steps_taken
        self.outputs = [each.clone() for each in self.step()]

    def replay(self) -> None:
        self.taken.append(1)
        for kept, new in zip(self.outputs, self.step(), strict=True):
            kept.copy_(new)


@pytest.fixture
def recorded(monkeypatch):
    """Policies that decode as on a GPU; the list grows with each replayed step."""
    taken: list[int] = []

    def record(decoder, rows, step, reach):
        graph = Replayed(decoder, list(rows), step, reach, taken)
        return _Recorded(graph, step, *graph.outputs)

    monkeypatch.setattr(Decoder, "_record", record)

    def policy(student, tokenizer, **options):
        made = TorchPolicy(student, tokenizer, **options)
        made._decoder.graphs = True
        return made

    return policy, taken


def completions(policy, prompts, turns: int, sampling: Sampling):
    """Each prompt for so many turns, more prompts than slots at a time."""
    found: dict[int, list[tuple[list[int], str]]] = {key: [] for key in range(len(prompts))}
    contexts, waiting = dict(enumerate(prompts)), list(range(len(prompts)))
    playing: set[int] = set()
    while waiting or playing:
        while waiting and len(playing) < policy.slots:
            key = waiting.pop(0)
            playing.add(key)
            policy.submit(key, contexts[key], sampling)
        for key, completion in policy.collect():
            found[key].append((completion.ids, completion.finish))
            contexts[key] = [*contexts[key], *completion.ids, 5, 6, 7 + key]
            full = len(contexts[key]) >= policy.max_length
            if full or len(found[key]) == turns:
                policy.release(key)
                playing.discard(key)
            else:
                policy.submit(key, contexts[key], sampling)
    return found


@pytest.mark.parametrize("length", [40, 400])
def test_recorded_steps_write_what_single_steps_write(student, tokenizer, recorded, length):
    """More episodes than slots, ends of turns at different times, windows that fill up."""
    build, taken = recorded
    prompts = [[7, 8, 9 + key % 3, *range(10, 10 + 2 * key)] for key in range(11)]
    plain = TorchPolicy(student, tokenizer, slots=5, max_length=length)
    unstopped = completions(plain, prompts, 1, Sampling(temperature=0, max_new_tokens=9))
    stops = tuple({tokenizer.decode(unstopped[key][0][0][5:6]) for key in (0, 5)})
    sampling = Sampling(temperature=0, max_new_tokens=9, stop=stops)
    expected = completions(plain, prompts, 3, sampling)
    graphed = build(student, tokenizer, slots=5, max_length=length)
    assert completions(graphed, prompts, 3, sampling) == expected
    assert taken
    assert any(finish == "stop" for turns in expected.values() for _, finish in turns)


def test_log_probabilities_of_recorded_steps_are_the_models(student, tokenizer, recorded):
    policy = recorded[0](student, tokenizer, slots=12, max_length=64, seed=4)
    for key in range(12):
        policy.submit(key, [7, 8, 9 + key], Sampling(max_new_tokens=10))
    for key, completion in policy.collect(at_least=12):
        ids = [7, 8, 9 + key, *completion.ids]
        with torch.no_grad():
            every = student(torch.tensor([ids])).logits[0].log_softmax(-1)
        expected = [float(every[2 + place, token]) for place, token in enumerate(completion.ids)]
        assert completion.logprobs == pytest.approx(expected, abs=1e-4)


def test_a_model_that_cannot_be_recorded_decodes_without(student, tokenizer, monkeypatch):
    def record(*_):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(Decoder, "_record", record)
    policy = TorchPolicy(student, tokenizer, slots=2, max_length=32)
    policy._decoder.graphs = True
    policy.submit(0, [7, 8, 9], Sampling(temperature=0, max_new_tokens=5))
    with pytest.warns(UserWarning, match="cannot be recorded as a CUDA graph"):
        [(_, found)] = policy.collect()
    plain = TorchPolicy(student, tokenizer, slots=2, max_length=32)
    plain.submit(0, [7, 8, 9], Sampling(temperature=0, max_new_tokens=5))
    assert found.ids == plain.collect()[0][1].ids
