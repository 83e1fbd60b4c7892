"""Invented names: short parts that combine freely, so that any name is new but pronounceable.

A name is a pure function of a number: numbers are shuffled by a bijection, so that no two have
the same name, and short forms are used up before longer ones begin.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from math import gcd, prod
from typing import Literal

Kind = Literal["person", "place", "work", "organisation"]
KINDS: tuple[Kind, ...] = ("person", "place", "work", "organisation")

GIVEN = """Ada Bram Cleo Dario Elke Fenn Gita Hugo Ines Joss Kaja Lars Mara Nils Olga Piet Quin Rosa
Sven Tova Ugo Vera Wim Xenia Yara Zeno Abel Britt Carl Dina Emil Freya Gus Hedy Igor Jana
Kurt Lena Milo Nora Otto Pia Rolf Sina Theo Ursa Viggo Wanda Yngve Zita""".split()
INITIAL = [f"{letter}." for letter in "ABCDEFGHIJKLMNOPRSTUVWYZ"]
ADJECTIVE = """Amber Bitter Broken Copper Crimson Distant Empty Fallen Gentle Golden Hidden Hollow
Iron Ivory Last Little Lonely Lost Naked Pale Quiet Restless Sacred Salt Secret Silent Silver
Sleeping Small Stolen Velvet Wandering White Winter""".split()
NOUN = """Anchor Bell Candle Crown Drum Feather Forest Garden Ghost Harp Heron Island Key Ladder
Lantern Letter Mirror Moon Mountain Orchard River Road Rose Sailor Shadow Sparrow Stone
Storm Throne Tower Violin Whale Window Wolf""".split()
BODY = "Academy Company Guild House Institute League Press Society Trust Union".split()
TITLE = "Captain Doctor Friend Keeper Lady Lord Master Mother Pilot Poet Rider Star".split()


def _joined(beginnings: str, ends: str) -> list[str]:
    return [begin + end for begin in beginnings.split() for end in ends.split()]


FAMILY = _joined(
    """Ash Bar Cor Dun Ember Fal Gar Holt Iver Jar Kel Lind Mor Nor Oster Pell Quill Rav Sel Thorn
    Ulm Var Wick Yar Zell""",
    "berg dahl en feld gate hart kin low man nes quist ridge sen tor vik well wood zer",
)
TOWN = _joined(
    """Ald Bel Cra Dor Eld Fro Gle Har Ister Jun Kar Lor Mel Nim Oak Pra Ros Sar Tel Umber Vel Win
    Yor Zan Bru Ced Dray Eri Gan Hux Lym Mox Penn Tor""",
    "bridge caster dale fall ford ham haven hill lake mere mouth port stead ton vale wyck",
)

Form = tuple[str, tuple[Sequence[str], ...]]
"""A pattern, and the parts that fill it."""

FORMS: dict[str, tuple[Form, ...]] = {
    "person": (
        ("{} {}", (GIVEN, FAMILY)),
        ("{} {} {}", (GIVEN, INITIAL, FAMILY)),
        ("{} {} {} {}", (GIVEN, INITIAL, INITIAL, FAMILY)),
    ),
    "place": (
        ("{}", (TOWN,)),
        ("{} on {}", (TOWN, TOWN)),
        ("{} {} on {}", (ADJECTIVE, TOWN, TOWN)),
    ),
    "work": (
        ("The {} {}", (ADJECTIVE, NOUN)),
        ("The {} {} of {}", (ADJECTIVE, NOUN, TOWN)),
        ("The {} {} and the {} of {}", (ADJECTIVE, NOUN, NOUN, TOWN)),
    ),
    "organisation": (
        ("{} {}", (FAMILY, BODY)),
        ("{} and {} {}", (FAMILY, FAMILY, BODY)),
    ),
    "alias": (
        ("the {} {}", (ADJECTIVE, TITLE)),
        ("the {} {} of {}", (ADJECTIVE, TITLE, TOWN)),
        ("the {} {} of {} {}", (ADJECTIVE, TITLE, ADJECTIVE, TOWN)),
    ),
}
NAMESAKES: dict[Kind, tuple[str, ...]] = {
    "person": ("{} the Younger", "{} the Elder", "{} Junior"),
    "place": ("New {}", "Upper {}", "Lower {}"),
    "work": ("{}, Part Two", "{}: A Reply", "{} Revisited"),
    "organisation": ("Old {}", "Royal {}", "Free {}"),
}
"""None of these is ever the name of an entity."""


class Namer:
    """Names by number; `hash` decides how the numbers are shuffled."""

    def __init__(self, hash: Callable[..., int]) -> None:
        self._tiers = {
            kind: [_Tier(form, hash("names", kind, n)) for n, form in enumerate(forms)]
            for kind, forms in FORMS.items()
        }

    def name(self, kind: str, number: int) -> str:
        """The name with this number: another for each number. Raises IndexError past the last."""
        tiers = self._tiers[kind]
        for tier, end in zip(tiers, accumulate(tier.size for tier in tiers), strict=True):
            if number < end:
                return tier.name(number - end + tier.size)
        raise IndexError(f"there are only {sum(tier.size for tier in tiers):,} names of {kind}s")


class _Tier:
    """The names of one form, in an order that a seed decides."""

    def __init__(self, form: Form, seed: int) -> None:
        self._pattern, self._parts = form
        self.size = prod(len(parts) for parts in self._parts)
        self._shift = seed % self.size
        # Multiplying by a number without a common divisor visits every place once.
        self._factor = self.size // 3 + seed // self.size % max(1, self.size // 3)
        while gcd(self._factor, self.size) != 1:
            self._factor += 1

    def name(self, number: int) -> str:
        rest = (number * self._factor + self._shift) % self.size
        chosen: list[str] = []
        for parts in self._parts:
            rest, place = divmod(rest, len(parts))
            chosen.append(parts[place])
        return self._pattern.format(*chosen)


def namesake(kind: Kind, name: str, key: int) -> str:
    """Nearly the same name, for something else."""
    forms = NAMESAKES[kind]
    return forms[key % len(forms)].format(name)
