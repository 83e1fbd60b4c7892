"""A demonstrator of one's own: a model in this process that plays as a student does.

    ovd train --demonstrator ovd_agent.player:ModelPlayer --demonstrator.model runs/other

The teacher still scores; what the model plays takes the place of its demonstrations.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from ovd_agent.models import load_frozen, student_path
from ovd_agent.policies.base import Sampling
from ovd_agent.policies.torch_policy import TorchPolicy
from ovd_agent.rollouts.encoding import decode_action, encode, encode_prompt
from ovd_envs.episode import Episode, VerbalScore
from ovd_envs.errors import OptionError
from ovd_envs.teachers.base import ScoreRequest


@dataclass(frozen=True)
class ModelPlayer:
    """A trained student that demonstrates. It scores nothing: name it as `--demonstrator`."""

    model: str
    """As `--student` takes it: a run's folder, a checkpoint, or an id on the Hub."""
    temperature: float = 0.7
    """Sampling temperature of actions in an episode whose seed is not 0: further tries of a task.
    The first is greedy."""
    stop: tuple[str, ...] = ("</search>", "</answer>")
    """Where an action ends. Of mathematics: </think> </answer>."""
    max_new_tokens: int = 64
    """Of an action."""
    max_length: int = 1024
    """Of an episode, in tokens; one that has become longer is not played on."""
    slots: int = 32
    """Episodes at once."""

    def __post_init__(self) -> None:
        if min(self.max_new_tokens, self.max_length, self.slots) < 1:
            raise OptionError("max_new_tokens, max_length and slots: expected at least 1")
        if self.temperature < 0:
            raise OptionError(f"temperature={self.temperature}: expected at least 0")
        student_path(self.model)

    @cached_property
    def _loaded(self) -> tuple[TorchPolicy, PreTrainedTokenizerBase]:
        model, tokenizer = load_frozen(student_path(self.model))
        policy = TorchPolicy(model, tokenizer, slots=self.slots, max_length=self.max_length)
        policy.weights_changed(0)
        return policy, tokenizer

    def act(self, episodes: Sequence[Episode]) -> list[str]:
        """The model's next action in each episode, greedy where its seed is 0; empty where an
        episode fills the window."""
        contexts = [self._context(episode) for episode in episodes]
        fits = [place for place, ids in enumerate(contexts) if len(ids) < self.max_length]
        actions = [""] * len(episodes)
        for start in range(0, len(fits), self.slots):
            places = fits[start : start + self.slots]
            for place, action in zip(places, self._actions(episodes, contexts, places)):
                actions[place] = action
        return actions

    def score(self, requests: Sequence[ScoreRequest]) -> list[VerbalScore]:
        return [VerbalScore.missing("a player scores nothing")] * len(requests)

    def _actions(
        self, episodes: Sequence[Episode], contexts: Sequence[list[int]], places: Sequence[int]
    ) -> list[str]:
        policy, tokenizer = self._loaded
        first = episodes[places[0]]  # so that a resumed run samples the same
        seed = f"{first.task.id} {first.seed} {len(first.turns)}"
        policy.seed(random.Random(seed).getrandbits(31))
        if any(episodes[place].seed for place in places):
            # What is cached decides who is read first, and so who draws which number.
            policy.weights_changed(0)
        for key, place in enumerate(places):
            temperature = self.temperature if episodes[place].seed else 0.0
            sampling = Sampling(temperature, 1.0, self.max_new_tokens, tuple(self.stop))
            policy.submit(key, contexts[place], sampling)
        done = dict(policy.collect(len(places)))
        for key in done:
            policy.release(key)
        return [decode_action(tokenizer, done[key].ids) for key in range(len(places))]

    def _context(self, episode: Episode) -> list[int]:
        """What a student would have read and written so far."""
        _, tokenizer = self._loaded
        ids = encode_prompt(tokenizer, episode.prompt)
        for turn in episode.turns:
            ids += [*encode(tokenizer, turn.action), *encode(tokenizer, turn.observation)]
        return ids
