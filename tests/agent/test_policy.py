"""The torch policy against the plain model: same distribution, ids in = ids out."""

import random

import pytest
import torch

from ovd_agent.policies.attention import grouped_attention
from ovd_agent.policies.base import Sampling
from ovd_agent.policies.torch_policy import TorchPolicy


def reference_logprobs(model, ids: list[int], start: int) -> list[float]:
    """One full pass without a cache."""
    with torch.no_grad():
        logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return [float(logprobs[i - 1, ids[i]]) for i in range(start, len(ids))]


@pytest.fixture
def policy(student, tokenizer) -> TorchPolicy:
    return TorchPolicy(student, tokenizer, slots=4, max_length=96, seed=1)


def test_logprobs_are_those_of_a_full_pass_over_several_turns(student, policy):
    contexts = {key: [5 + key] * (3 + 7 * key) for key in range(4)}
    for turn in range(3):
        for key, ids in contexts.items():
            policy.submit(key, ids, Sampling(max_new_tokens=4 + key))
        finished = dict(policy.collect(at_least=4))
        assert set(finished) == set(contexts)
        for key, completion in finished.items():
            start = len(contexts[key])
            contexts[key] = contexts[key] + completion.ids
            expected = reference_logprobs(student, contexts[key], start)
            assert completion.logprobs == pytest.approx(expected, abs=1e-4)
            contexts[key] = contexts[key] + [9, 10 + turn, 11]


def test_greedy_equals_hugging_face_generate_whoever_shares_the_batch(student, policy):
    prompts = [[7, 8, 9], [20] * 11, [30, 31]]
    for key, prompt in enumerate(prompts):
        policy.submit(key, prompt, Sampling(temperature=0, max_new_tokens=12))
    finished = dict(policy.collect(at_least=3))
    for key, prompt in enumerate(prompts):
        expected = student.generate(
            torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=None
        )[0, len(prompt) :].tolist()
        end = student.config.eos_token_id
        if end in expected:
            expected = expected[: expected.index(end) + 1]
        assert finished[key].ids == expected


def test_temperature_scales_the_recorded_logprobs(student, policy):
    policy.submit(0, [7, 8, 9], Sampling(temperature=0.5, max_new_tokens=1))
    ((_, completion),) = policy.collect()
    with torch.no_grad():
        logits = student(torch.tensor([[7, 8, 9]])).logits[0, -1] / 0.5
    assert completion.logprobs[0] == pytest.approx(
        float(logits.log_softmax(-1)[completion.ids[0]]), abs=1e-4
    )


def test_samples_follow_the_distribution(student, tokenizer):
    policy = TorchPolicy(student, tokenizer, slots=64, max_length=16, seed=3)
    with torch.no_grad():
        probabilities = student(torch.tensor([[7, 8, 9]])).logits[0, -1].softmax(-1)
    bits = torch.arange(len(probabilities)) % 2 == 0
    drawn = []
    for _ in range(30):
        for key in range(64):
            policy.submit(key, [7, 8, 9], Sampling(max_new_tokens=1))
        for key, completion in policy.collect(at_least=64):
            drawn.append(bool(bits[completion.ids[0]]))
            policy.release(key)
    share = sum(drawn) / len(drawn)
    # Four standard errors of 1,920 draws.
    assert abs(share - float(probabilities[bits].sum())) < 4 * 0.5 / len(drawn) ** 0.5


def test_a_stop_string_ends_the_turn_even_across_token_borders(student, tokenizer, policy):
    """`b<` and `/search>` never meet in one token of a vocabulary that was not built for them."""
    pieces = [tokenizer.encode(c, add_special_tokens=False) for c in ("x", "</search>")]
    script = pieces[0] + pieces[1] + pieces[0] * 5
    split = [t for c in "<|stop" for t in tokenizer.encode(c, add_special_tokens=False)]
    for ids, stop in ((script, "</search>"), ([*pieces[0], *split, *pieces[0]], "o")):
        follow(policy, student, ids)
        policy.submit(0, [7], Sampling(temperature=0, max_new_tokens=20, stop=(stop,)))
        ((_, completion),) = policy.collect()
        policy.release(0)
        text = tokenizer.decode(completion.ids)
        assert completion.finish == "stop"
        assert text.count(stop) == 1
        assert text.endswith(stop)
        assert completion.ids == ids[: len(completion.ids)]


def follow(policy, student, script: list[int]) -> None:
    """Make the policy's model say exactly this script, one token a step."""
    remaining = iter(script)

    def logits(rows, *_):
        result = torch.full((len(rows), student.config.vocab_size), -1e9)
        result[:, next(remaining)] = 0.0
        return result

    policy._decoder.logits = logits


def test_length_limits_finish_a_completion(policy):
    policy.submit(0, [7] * 94, Sampling(max_new_tokens=50))
    ((_, completion),) = policy.collect()
    assert completion.finish == "length"
    assert len(completion.ids) == 2


def test_bad_requests_are_refused_in_one_sentence(policy):
    with pytest.raises(ValueError, match="a context of 96 ids: expected 1 to max_length - 1"):
        policy.submit(0, [7] * 96, Sampling())
    with pytest.raises(ValueError, match="a context of 0 ids"):
        policy.submit(0, [], Sampling())
    for key in range(4):
        policy.submit(key, [7], Sampling())
    with pytest.raises(RuntimeError, match="all 4 slots are taken"):
        policy.submit(9, [7], Sampling())
    with pytest.raises(ValueError, match="does not continue"):
        policy.submit(0, [8, 9], Sampling())
    with pytest.raises(ValueError, match="temperature=-1"):
        Sampling(temperature=-1)
    with pytest.raises(ValueError, match="top_p=0"):
        Sampling(top_p=0)
    assert policy.collect(at_least=4)
    assert not policy.collect()


def test_new_weights_forget_the_cache(student, policy):
    policy.submit(0, [7, 8, 9], Sampling(temperature=0, max_new_tokens=3))
    policy.collect()
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.mul_(1.1)
    policy.weights_changed(1)
    policy.submit(0, [7, 8, 9], Sampling(max_new_tokens=3))
    ((_, completion),) = policy.collect()
    assert completion.version == 1
    expected = reference_logprobs(student, [7, 8, 9, *completion.ids], 3)
    assert completion.logprobs == pytest.approx(expected, abs=1e-4)


def test_a_shared_beginning_is_computed_once_and_changes_nothing(student, tokenizer):
    """Group mates, and an episode that takes over the slot of one that ended."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randint(200, (40,), generator=generator).tolist()
    contexts = {key: start + [10 * (key // 4)] * 5 for key in range(12)}
    policy = TorchPolicy(student, tokenizer, slots=12, max_length=96, seed=2)
    for key, ids in contexts.items():
        policy.submit(key, ids, Sampling(max_new_tokens=1))
    finished = dict(policy.collect(at_least=12))
    for key, completion in finished.items():
        expected = reference_logprobs(student, contexts[key] + completion.ids, len(contexts[key]))
        assert completion.logprobs == pytest.approx(expected, abs=1e-4)
    # 45 ids by the first, then 5 for each other question, then the last id of all the others.
    assert policy.computed_tokens == 45 + 2 * 5 + 9
    policy.release(5)
    before = policy.computed_tokens
    policy.submit(77, [*start, 1, 2], Sampling(max_new_tokens=1))
    ((_, completion),) = policy.collect()
    assert policy.computed_tokens == before + 2
    expected = reference_logprobs(student, [*start, 1, 2, *completion.ids], 42)
    assert completion.logprobs == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("seed", range(6))
def test_any_order_of_turns_gives_the_plain_models_logprobs(student, tokenizer, seed):
    """Random contexts, lengths, releases and refills: ids in = ids out, whatever is cached."""
    rng = random.Random(seed)
    policy = TorchPolicy(student, tokenizer, slots=5, max_length=80, seed=seed)
    contexts: dict[int, list[int]] = {}
    key = 0
    for _ in range(25):
        while len(contexts) < 5:
            stem = [[7, 8, 9, 10] * 3, [20] * 9, [30, 31]][rng.randrange(3)]
            contexts[key] = [*stem, *(rng.randrange(200) for _ in range(rng.randrange(4)))]
            policy.submit(key, contexts[key], Sampling(max_new_tokens=rng.randint(1, 5)))
            key += 1
        for done, completion in policy.collect(at_least=rng.randint(1, 3)):
            start = len(contexts[done])
            contexts[done] += completion.ids
            expected = reference_logprobs(student, contexts[done], start)
            assert completion.logprobs == pytest.approx(expected, abs=1e-4)
            if len(contexts[done]) > 60 or rng.random() < 0.3:
                policy.release(done)
                del contexts[done]
            else:
                contexts[done] += [rng.randrange(200) for _ in range(rng.randint(1, 9))]
                policy.submit(done, contexts[done], Sampling(max_new_tokens=rng.randint(1, 5)))


def test_top_p_keeps_the_likeliest_tokens_and_says_their_probability(student, tokenizer):
    policy = TorchPolicy(student, tokenizer, slots=64, max_length=16, seed=3)
    with torch.no_grad():
        probabilities = student(torch.tensor([[7, 8, 9]])).logits[0, -1].softmax(-1)
    ordered = probabilities.sort(descending=True)
    count = int((ordered.values.cumsum(0) < 0.3).sum()) + 1
    kept, mass = set(ordered.indices[:count].tolist()), float(ordered.values[:count].sum())
    for key in range(64):
        policy.submit(key, [7, 8, 9], Sampling(max_new_tokens=1, top_p=0.3))
    for _, completion in policy.collect(at_least=64):
        token = completion.ids[0]
        assert token in kept
        assert completion.logprobs[0] == pytest.approx(
            float((probabilities[token] / mass).log()), abs=1e-4
        )


@pytest.mark.parametrize("queries", [1, 3])
def test_grouped_attention_is_attention(queries):
    """Against keys and values that are repeated for each head."""
    torch.manual_seed(0)
    query = torch.randn(2, 6, queries, 8)
    key, value = torch.randn(2, 2, 7, 8), torch.randn(2, 2, 7, 8)
    mask = torch.rand(2, 1, queries, 7) > 0.3
    mask[..., 0] = True
    output, _ = grouped_attention(torch.nn.Module(), query, key, value, mask)
    scores = query @ key.repeat_interleave(3, 1).transpose(2, 3) / 8**0.5
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    expected = (weights @ value.repeat_interleave(3, 1)).transpose(1, 2)
    torch.testing.assert_close(output, expected)
