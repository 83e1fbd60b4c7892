"""Rollouts: a policy plays a scenario, continuously."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from heapq import nlargest
from typing import Any

from transformers import PreTrainedTokenizerBase

from ovd_agent.policies.base import Completion, Policy, Sampling
from ovd_agent.rollouts.encoding import decode_action, encode, encode_prompt
from ovd_agent.rollouts.trajectory import Trajectory
from ovd_envs.episode import Episode, Task
from ovd_envs.errors import OptionError
from ovd_envs.scenario import Scenario

_LONGEST = 50


@dataclass(slots=True)
class Feedback:
    """A step that the scenario's teacher scores below `threshold` is sampled again, up to `tries`
    times, at `temperature`: the teacher's feedback at inference (arXiv 2601.21968, as reported of
    its second version). The last try stands."""

    threshold: float
    tries: int
    temperature: float = 1.0
    retried: int = 0
    """Steps sampled again so far."""

    def __post_init__(self) -> None:
        if self.tries < 1 or self.temperature <= 0:
            raise OptionError(
                f"tries={self.tries}, temperature={self.temperature}: expected at least 1 try, and"
                " more than 0, since a greedy student would write the same again"
            )

    def asks_again(self, episode: Episode, tried: int) -> bool:
        """Whether the last step of an episode is to be taken back."""
        score = episode.turns[-1].score
        bad = score is not None and score.expected is not None and score.expected < self.threshold
        return bad and tried < self.tries


@dataclass(slots=True)
class Rollout:
    """Plays tasks with at most `slots` episodes at once; a finished episode's slot is refilled
    at once. `max_length` bounds a trajectory's ids: an episode that outgrows it is truncated.

    With `overlap`, search and teacher work in a thread of their own while the policy generates.
    """

    scenario: Scenario
    policy: Policy
    tokenizer: PreTrainedTokenizerBase
    slots: int = 64
    max_length: int = 1024
    max_new_tokens: int = 64
    overlap: bool = False
    template: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Arguments of the chat template."""
    feedback: Feedback | None = None
    """Whether bad steps are sampled again."""

    def play(
        self,
        tasks: Sequence[Task],
        seeds: Sequence[int] | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        on_finished: Callable[[int], None] = lambda count: None,
    ) -> list[Trajectory]:
        """One trajectory per task, in the order of the tasks. `on_finished` is told how many
        episodes have ended."""
        sampling = Sampling(temperature, top_p, self.max_new_tokens, self.scenario.stop_strings)
        episodes = self.scenario.begin(tasks, seeds)
        trajectories = [self._open(episode) for episode in episodes]
        waiting = list(range(len(tasks)))[::-1]
        playing: set[int] = set()
        found: dict[int, Completion] = {}
        tried: Counter[tuple[int, int]] = Counter()
        steps = _Steps(lambda keys: self._step([(trajectories[k], found[k]) for k in keys]))
        with ThreadPoolExecutor(1, "scenario") if self.overlap else nullcontext() as thread:
            while waiting or playing:
                while waiting and len(playing) < self.slots:
                    playing.add(key := waiting.pop())
                    self.policy.submit(key, trajectories[key].ids, sampling)
                # Waiting for an eighth of the slots makes the search, the teacher and the next
                # prefill work on batches, and still leaves nobody waiting for the slowest.
                finished = self.policy.collect(at_least=max(1, len(playing) // 8))
                found |= dict(finished)
                steps.waiting += [key for key, _ in finished]
                for key in steps.made(thread, wait=not finished):
                    place = key, len(trajectories[key].episode.turns) - 1
                    if self._takes_back(trajectories[key], tried[place]):
                        tried[place] += 1
                        assert self.feedback is not None
                        again = replace(sampling, temperature=self.feedback.temperature)
                        self.policy.release(key)  # what it read of this turn is no prefix now
                        self.policy.submit(key, trajectories[key].ids, again)
                    elif trajectories[key].episode.done:
                        self.policy.release(key)
                        playing.discard(key)
                        on_finished(len(tasks) - len(waiting) - len(playing))
                    else:
                        self.policy.submit(key, trajectories[key].ids, sampling)
        return trajectories

    def _takes_back(self, trajectory: Trajectory, tried: int) -> bool:
        """Undo the last turn if the teacher wants it sampled again."""
        episode = trajectory.episode
        if self.feedback is None or not self.feedback.asks_again(episode, tried):
            return False
        turn = len(episode.turns) - 1
        trajectory.take_back(turn, self.scenario.resume(episode, turn))
        self.feedback.retried += 1
        return True

    def check_prompts(self, tasks: Sequence[Task]) -> None:
        """Raise OptionError, naming the task, where a prompt does not fit. The longest texts are
        looked at, so that many tasks cost nothing."""
        longest = nlargest(_LONGEST, tasks, key=lambda task: len(task.prompt))
        for episode in self.scenario.begin(longest):
            self._open(episode)

    def _open(self, episode: Episode) -> Trajectory:
        trajectory = Trajectory(episode, self.policy.version)
        trajectory.append(
            "prompt", encode_prompt(self.tokenizer, episode.prompt, self.template), -1
        )
        if len(trajectory.ids) >= self.max_length:
            raise OptionError(
                f"the prompt of task {episode.task.id!r} has {len(trajectory.ids)} tokens: "
                f"expected fewer than rollout.max_length={self.max_length}"
            )
        return trajectory

    def _step(self, finished: list[tuple[Trajectory, Completion]]) -> None:
        actions: list[str] = []
        for trajectory, completion in finished:
            turn = len(trajectory.episode.turns)
            trajectory.append("student", completion.ids, turn, completion.logprobs)
            actions.append(decode_action(self.tokenizer, completion.ids))
        turns = self.scenario.advance([trajectory.episode for trajectory, _ in finished], actions)
        for (trajectory, _), turn in zip(finished, turns, strict=True):
            if trajectory.episode.done:
                continue
            observation = encode(self.tokenizer, turn.observation)
            if len(trajectory.ids) + len(observation) >= self.max_length:
                self.scenario.truncate(trajectory.episode)
            else:
                index = len(trajectory.episode.turns) - 1
                trajectory.append("environment", observation, index)

    def tokenized(
        self, episode: Episode, began: Trajectory | None = None, turn: int = 0
    ) -> Trajectory:
        """An episode that a teacher played, in the student's tokens: from turn `turn` on, where it
        is the continuation of the student's trajectory `began`, else from its beginning."""
        if began is None:
            trajectory = Trajectory(episode)
            trajectory.append(
                "prompt", encode_prompt(self.tokenizer, episode.prompt, self.template), -1
            )
        else:
            trajectory = began.before(turn, episode)
        for index, turn_played in list(enumerate(episode.turns))[turn:]:
            trajectory.append("teacher", encode(self.tokenizer, turn_played.action), index)
            if index + 1 < len(episode.turns):
                observed = encode(self.tokenizer, turn_played.observation)
                trajectory.append("environment", observed, index)
        return trajectory


class _Steps:
    """Steps of the scenario: at once, or in a second thread, where all that come while one is
    under way make the next one together."""

    def __init__(self, make: Callable[[list[int]], None]) -> None:
        self.waiting: list[int] = []
        """Keys of episodes whose action is known."""
        self._make = make
        self._under_way: tuple[Future[None], list[int]] | None = None

    def made(self, thread: ThreadPoolExecutor | None, wait: bool) -> list[int]:
        """Keys of the episodes that have made their step; `wait` for the one under way."""
        keys: list[int] = []
        if self._under_way and (wait or self._under_way[0].done()):
            future, keys = self._under_way
            self._under_way = None
            future.result()  # raises what the step raised
        if self.waiting and self._under_way is None:
            batch, self.waiting = self.waiting, []
            if thread is None:
                self._make(batch)
                return batch
            self._under_way = thread.submit(self._make, batch), batch
        return keys
