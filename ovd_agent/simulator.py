"""A search engine of one's own: a model that was trained to write what an index finds.

    ovd train-simulator --model smollm2 --out runs/simulator
    ovd train --search ovd_agent.simulator:LocalSimulator --search.model runs/simulator/model

Useful passages are those that the index finds, noisy ones its near misses: both are good text about
the same things, and only the word in the prompt tells them apart.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ovd_agent.learner.rows import TrainingRow
from ovd_agent.losses.cross_entropy import CrossEntropy
from ovd_agent.models import load_frozen, student_path
from ovd_agent.policies.base import Sampling
from ovd_agent.policies.torch_policy import TorchPolicy
from ovd_agent.rollouts.encoding import encode, encode_chat
from ovd_envs.episode import Episode, Task
from ovd_envs.errors import OptionError
from ovd_envs.search.base import SearchEngine, SearchRequest
from ovd_envs.search.simulated.base import WriteRequest
from ovd_envs.search.simulated.engine import Noise, SimulatedOptions, SimulatedSearch, Written
from ovd_envs.search.simulated.prompts import numbered, read_passages, write_messages
from retrieval_index.documents import Document
from retrieval_index.mentions import mentions

MISSES = 4
"""Near misses are among this many times as many passages as are wanted."""
_TRIES = 3
_TOKENS_OF_A_WORD = 3
_TOO_LONG = (
    "the search %r failed: its prompt of %d tokens and passages of %d do not fit into %d; write"
    " shorter passages (--search.words) or fewer (--env.top-k)"
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pair:
    """A request, and the passages that a real index has for it."""

    request: WriteRequest
    passages: tuple[Document, ...]
    wanted: str
    """What the query asks for."""

    @property
    def text(self) -> str:
        """In the form that the prompt asks for."""
        return numbered([(each.title, each.text) for each in self.passages])


def sampled_pairs(
    engine: SearchEngine, tasks: Sequence[Task], *, count: int, words: int, seed: int = 0
) -> list[Pair]:
    """A useful and a noisy pair for every hop of the tasks, as far as the index has them.

    Raises OptionError where no task has a chain of hops that says what a query asks for.
    """
    hops = [(task, link) for task in tasks for link in task.metadata.get("chain") or ()]
    if not hops:
        raise OptionError("no task has a chain of hops: expected one in their metadata")
    requests = [
        SearchRequest(str(link["query"]), Episode(task, task.prompt)) for task, link in hops
    ]
    results = engine.search(requests, MISSES * count)
    pairs: list[Pair] = []
    for (_, link), request, documents in zip(hops, requests, results, strict=True):
        wanted = str(link["answer"])
        found = [_shortened(each, words) for each in documents or ()]
        says = [mentions(f"{each.title} {each.text}", [wanted]) for each in found]
        useful = [each for each, right in zip(found, says) if right][:count]
        misses = [each for each, right in zip(found, says) if not right][:count]
        drawn = random.Random(f"{seed} {request.query}").getrandbits(31)
        asked = WriteRequest(request.query, request.episode, True, count, words, drawn)
        if useful:
            rest = [each for each in misses if each not in useful][: count - len(useful)]
            pairs.append(Pair(asked, (*useful, *rest), wanted))
        if misses:
            pairs.append(Pair(replace(asked, useful=False), tuple(misses), wanted))
    return pairs


def _shortened(document: Document, words: int) -> Document:
    return replace(document, text=" ".join(document.text.split()[:words]))


def writing_rows(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair]) -> list[TrainingRow]:
    """A row for each pair: cross-entropy on the passages, and on the token that ends them."""
    rows: list[TrainingRow] = []
    for pair in pairs:
        prompt = prompt_ids(tokenizer, pair.request)
        end: Any = tokenizer.eos_token_id
        said = encode(tokenizer, pair.text) + ([end] if end is not None else [])
        row = TrainingRow.blank([*prompt, *said], "demonstration")
        row.stream(CrossEntropy.weight)[len(prompt) :] = 1.0
        row.group = pair.request.episode.task.id
        rows.append(row)
    return rows


def prompt_ids(tokenizer: PreTrainedTokenizerBase, request: WriteRequest) -> list[int]:
    """The prompt that asks for passages. Raises OptionError without a chat template."""
    if not tokenizer.chat_template:
        raise OptionError("a simulator needs a chat template: expected an instruction-tuned model")
    return encode_chat(tokenizer, write_messages(request))


class LocalWriter:
    """A `Writer` by a model in this process."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        temperature: float = 0.8,
        slots: int = 32,
        max_length: int = 2048,
    ) -> None:
        self.tokenizer, self.temperature = tokenizer, temperature
        self.slots, self.max_length = slots, max_length
        self._policy = TorchPolicy(model, tokenizer, slots=slots, max_length=max_length)

    def write(self, requests: Sequence[WriteRequest]) -> list[list[tuple[str, str]] | None]:
        """Requests that are asked together share one stream of random numbers."""
        found: dict[int, list[tuple[str, str]] | None] = dict.fromkeys(range(len(requests)))
        for number in range(_TRIES):
            missing = [place for place, passages in found.items() if not passages]
            for start in range(0, len(missing), self.slots):
                places = missing[start : start + self.slots]
                texts = self._texts([requests[place] for place in places], number)
                for place, text in zip(places, texts, strict=True):
                    request = requests[place]
                    found[place] = read_passages(text, request.count, request.words)
        return [found[place] for place in range(len(requests))]

    def _texts(self, requests: Sequence[WriteRequest], number: int) -> list[str]:
        self._policy.seed((requests[0].seed if requests else 0) + number)
        # What is in the cache decides who is read first, and so which passages draw which numbers.
        self._policy.weights_changed(0)
        waiting = 0
        for key, request in enumerate(requests):
            tokens = 20 + _TOKENS_OF_A_WORD * request.words * request.count
            prompt = prompt_ids(self.tokenizer, request)
            if len(prompt) + tokens < self.max_length:
                self._policy.submit(key, prompt, Sampling(self.temperature, max_new_tokens=tokens))
                waiting += 1
            else:
                log.warning(_TOO_LONG, request.query[:80], len(prompt), tokens, self.max_length)
        texts = [""] * len(requests)
        for key, said in self._policy.collect(waiting):
            texts[key] = str(self.tokenizer.decode(said.ids, skip_special_tokens=True))
            self._policy.release(key)
        return texts


@dataclass(frozen=True)
class LocalSimulator:
    """A simulated search engine whose writer is a model in this process."""

    model: str
    """What `ovd train-simulator` wrote, or another instruction-tuned model."""
    noise: Noise = field(default_factory=Noise)
    words: int = 30
    """Of a passage, about."""
    seed: int = 0
    """Decides which queries are answered by noise, and what is sampled."""
    temperature: float = 0.8

    @cached_property
    def engine(self) -> SimulatedSearch:
        model, tokenizer = load_frozen(student_path(self.model))
        options = SimulatedOptions(noise=self.noise, words=self.words, seed=self.seed)
        with torch.inference_mode(False):
            writer = LocalWriter(model.eval(), tokenizer, temperature=self.temperature)
        return SimulatedSearch(options, writer)

    @property
    def written(self) -> Written:
        """What the engine did."""
        return self.engine.written

    def pace(self, share: float) -> float:
        """As `SimulatedSearch.pace`."""
        return self.engine.pace(share)

    def search(self, requests: Sequence[SearchRequest], k: int) -> list[list[Document] | None]:
        return self.engine.search(requests, k)


@dataclass(frozen=True, slots=True)
class Measured:
    """Shares of requests: `form` wrote passages at all; of useful ones `useful` say what is asked
    for, of noisy ones `noisy` do, and should not."""

    form: float
    useful: float
    noisy: float


def measured(writer: LocalWriter, pairs: Sequence[Pair]) -> Measured:
    """How a writer does on pairs that it has not seen."""
    found = writer.write([pair.request for pair in pairs])
    says: dict[bool, list[bool]] = {True: [], False: []}
    for pair, passages in zip(pairs, found, strict=True):
        text = " ".join(f"{title} {text}" for title, text in passages or [])
        says[pair.request.useful].append(mentions(text, [pair.wanted]))
    return Measured(
        sum(map(bool, found)) / max(1, len(found)),
        sum(says[True]) / max(1, len(says[True])),
        sum(says[False]) / max(1, len(says[False])),
    )
