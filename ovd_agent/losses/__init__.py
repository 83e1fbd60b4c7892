"""The components of the loss by name; a run's algorithm may add its own."""

from __future__ import annotations

from collections.abc import Iterable

from ovd_agent.losses.base import LossComponent
from ovd_agent.losses.cross_entropy import CrossEntropy
from ovd_agent.losses.distillation import Distillation
from ovd_agent.losses.divergence import Divergence
from ovd_agent.losses.kl import KL
from ovd_agent.losses.policy_gradient import PolicyGradient
from ovd_agent.losses.shaped import Shaped
from retrieval_index.registry import Registry

LOSSES: Registry[LossComponent] = Registry("loss component")


def _itself(component: LossComponent) -> LossComponent:
    return component


for _component in (PolicyGradient, CrossEntropy, KL, Shaped, Distillation, Divergence):
    LOSSES.register(_component.name, _itself, _component)


def loss_components(own: Iterable[LossComponent] = ()) -> tuple[LossComponent, ...]:
    """Every component of the table, and those of an algorithm, which replace the ones they are
    named like."""
    known = {name: LOSSES.choose(name).build() for name in LOSSES.names()}
    return tuple({**known, **{each.name: each for each in own}}.values())
