"""Watch the oracle, a lazy and a random player in both environments, every step scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import tyro
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from ovd_envs.calibration.agreement import agreement
from ovd_envs.calibration.players import Player, at_random, careless, lazy, oracle, play
from ovd_envs.episode import Episode, Turn
from ovd_envs.registry import make_scenario
from ovd_envs.scenario import Scenario
from ovd_envs.scenarios import MATH, WEBQA

SHOWN = ("oracle", "lazy", "random")


@dataclass(frozen=True)
class Watch:
    """Watch the oracle, a lazy and a random player in both environments, every step scored."""

    episodes: int = 5
    """Episodes shown of each environment and player."""
    measured: int = 200
    """Episodes of each player behind the tables."""
    seed: int = 0
    picture: Path | None = None
    """Also save what is printed as an SVG."""


def main(arguments: Sequence[str]) -> int:
    options = tyro.cli(Watch, args=list(arguments), description=__doc__)
    console = Console(record=options.picture is not None, width=100 if options.picture else None)
    for env_id in (WEBQA, MATH):
        scenario, tasks = make_scenario(env_id, count=options.measured, split="test")
        played = {
            name: play(scenario, tasks, player, options.seed)
            for name, player in players(scenario).items()
        }
        for name in SHOWN:
            console.rule(f"[bold]{env_id}[/] · the {name} player", style="blue")
            for episode in played[name][: options.episodes]:
                show(episode, console)
        console.print(table(env_id, played), "")
    if options.picture:
        console.save_svg(str(options.picture), title="make players")
    return 0


def players(scenario: Scenario) -> dict[str, Player]:
    half = {
        f"oracle, {share:.0%} corrupted": careless(scenario, share) for share in (0.25, 0.5, 0.9)
    }
    return {"oracle": oracle(scenario), **half, "lazy": lazy, "random": at_random}


def show(episode: Episode, console: Console) -> None:
    """One episode, turn by turn."""
    console.print(f"\n[bold]{escape(episode.task.prompt)}[/]", highlight=False)
    for turn in episode.turns:
        console.print(f"{escape(turn.action.strip())}\n{score_of(turn)}", highlight=False)
        if turn.observation.strip():
            seen = f"[dim]{escape(turn.observation.strip())}[/]"
            console.print(Padding(seen, (0, 0, 0, 4)), highlight=False)
    if episode.exact_match:
        console.print("[green]right[/]")
    else:
        reason = str(episode.end_reason).replace("_", " ")
        expected = escape(episode.task.answers[0])
        console.print(f"[red]wrong[/] ({reason}; expected {expected})", highlight=False)


def score_of(turn: Turn) -> str:
    if turn.score is None or turn.score.level is None:
        return "[dim]-[/]"
    level = turn.score.level
    colour = "green" if level >= 7 else "yellow" if level >= 4 else "red"
    return f"    [bold white on {colour}] {level} [/] [{colour}]{turn.score.rationale}[/]"


def table(env_id: str, played: dict[str, list[Episode]]) -> Table:
    """What scores say of players of different strength."""
    everything = [episode for episodes in played.values() for episode in episodes]
    result = agreement(everything)
    shown = Table(
        title=f"{env_id}: scores and correctness, {len(everything)} episodes",
        caption=f"mean score against correctness: Spearman {result.spearman:.2f},"
        f" AUC {result.auc:.2f}",
    )
    for heading in ("player", "exact match", "mean score", "scores 0-2", "3-6", "7-9"):
        shown.add_column(heading, justify="left" if heading == "player" else "right")
    for name, episodes in played.items():
        levels = [level for episode in episodes for level in episode.levels]
        shares = [
            sum(low <= level <= high for level in levels) / len(levels)
            for low, high in ((0, 2), (3, 6), (7, 9))
        ]
        right = mean(episode.exact_match or 0.0 for episode in episodes)
        cells = (f"{right:.2f}", f"{mean(levels):.1f}", *(f"{share:.0%}" for share in shares))
        shown.add_row(name, *cells)
    return shown
