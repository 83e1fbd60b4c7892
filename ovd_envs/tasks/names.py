"""Invented names: short parts that combine freely, so that any name is new but pronounceable."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import count

GIVEN = """Ada Bram Cleo Dario Elke Fenn Gita Hugo Ines Joss Kaja Lars Mara Nils Olga Piet Quin Rosa
Sven Tova Ugo Vera Wim Xenia Yara Zeno Abel Britt Carl Dina Emil Freya Gus Hedy Igor Jana
Kurt Lena
Milo Nora Otto Pia Rolf Sina Theo Ursa Viggo Wanda Yngve Zita""".split()
ADJECTIVE = """Amber Bitter Broken Copper Crimson Distant Empty Fallen Gentle Golden
Hidden Hollow Iron
Ivory Last Little Lonely Lost Naked Pale Quiet Restless Sacred Salt Secret Silent Silver
Sleeping Small Stolen Velvet Wandering White Winter""".split()
NOUN = """Anchor Bell Candle Crown Drum Feather Forest Garden Ghost Harp Heron Island Key Ladder
Lantern Letter Mirror Moon Mountain Orchard River Road Rose Sailor Shadow Sparrow Stone
Storm Throne Tower Violin Whale Window Wolf""".split()
BODY = """Academy Company Guild House Institute League Press Society Trust Union""".split()
TITLE = """Captain Doctor Friend Keeper Lady Lord Master Mother Pilot Poet Rider Star""".split()

Parts = tuple[Sequence[str], Sequence[str]]
"""Beginnings and ends of names."""

FAMILY: Parts = (
    """Ash Bar Cor Dun Ember Fal Gar Holt Iver Jar Kel Lind Mor Nor Oster Pell Quill Rav Sel Thorn
Ulm Var Wick Yar Zell""".split(),
    """berg dahl en feld gate hart kin low man nes quist ridge sen tor vik well wood zer""".split(),
)
PLACE: Parts = (
    """Ald Bel Cra Dor Eld Fro Gle Har Ister Jun Kar Lor Mel Nim Oak Pra Ros Sar Tel Umber Vel Win
Yor Zan Bru Ced Dray Eri Gan Hux Lym Mox Penn Tor""".split(),
    """bridge caster dale fall ford ham haven hill lake mere mouth port stead ton vale
wyck""".split(),
)


def unique_names(kind: str, rng: random.Random) -> Iterator[str]:
    """An endless stream of different names of one kind.

    The short forms come first; as they run out, longer ones join (a middle initial, a second
    part), which gives room for millions of entities.
    """
    seen: set[str] = set()
    misses = 0
    for _ in count():
        name = _name(kind, rng, long=misses > len(seen) // 2 + 10)
        if name in seen:
            misses += 1
        else:
            seen.add(name)
            yield name


def _name(kind: str, rng: random.Random, *, long: bool) -> str:
    match kind:
        case "person":
            middle = f" {rng.choice('ABCDEFGHIJKLMNOPRSTUVWYZ')}." if long else ""
            return f"{rng.choice(GIVEN)}{middle} {_join(FAMILY, rng)}"
        case "place":
            return _join(PLACE, rng) + (f" on {_join(PLACE, rng)}" if long else "")
        case "work":
            name = f"The {rng.choice(ADJECTIVE)} {rng.choice(NOUN)}"
            return name + (f" of {_join(PLACE, rng)}" if long else "")
        case "organisation":
            second = f" and {_join(FAMILY, rng)}" if long else ""
            return f"{_join(FAMILY, rng)}{second} {rng.choice(BODY)}"
        case "alias":
            second = f" of {_join(PLACE, rng)}" if long else ""
            return f"the {rng.choice(ADJECTIVE)} {rng.choice(TITLE)}{second}"
        case _:
            raise ValueError(f"no names of kind {kind!r}")


def _join(parts: Parts, rng: random.Random) -> str:
    return rng.choice(parts[0]) + rng.choice(parts[1])
