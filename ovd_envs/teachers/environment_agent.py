"""`teacher="environment_agent"`: the model that plays the search engine also grades the steps.

As in the paper's Web Q&A (arXiv 2601.21968), where one model answers the student's searches and
scores its trajectories. The prompt begins with what the simulated search engine shows it, so that a
server's prefix cache serves both roles; grades, calibration and faults are those of any language
model as teacher.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from ovd_envs.llm.text import Messages
from ovd_envs.search.simulated.prompts import SYSTEM, history
from ovd_envs.teachers.base import ScoreRequest, TeacherContext
from ovd_envs.teachers.llm.prompts import score_messages
from ovd_envs.teachers.llm.teacher import LLMOptions, LLMTeacher, check_levels


@dataclass(frozen=True, slots=True)
class AgentOptions(LLMOptions):
    """The language model that plays the search engine, as judge. Give the server of
    `search="simulated:MODEL@URL"`."""


def agent_score_messages(
    request: ScoreRequest, *, shows_answer: bool = True, shows_plan: bool = False
) -> Messages:
    """The question for a grade behind the history that the search engine's prompt has, too."""
    judge, asked = score_messages(request, shows_answer=shows_answer, shows_plan=shows_plan)
    before = history(request.episode, request.index)
    return [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": f"{before}\n\n{judge['content']}\n\n{asked['content']}"},
    ]


def build(options: AgentOptions, context: TeacherContext) -> LLMTeacher:
    """Raises OptionError where the environment asks for more levels than one digit has."""
    check_levels(context)
    asked = partial(
        agent_score_messages, shows_answer=options.shows_answer, shows_plan=options.shows_plan
    )
    return LLMTeacher(options, asked)
