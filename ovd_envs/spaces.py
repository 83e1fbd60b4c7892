"""The space of all Unicode texts."""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium.wrappers.utils import create_zero_array

MAX_CHARS = 1_000_000
_SAMPLE_CHARS = 64
"""Samples stay short: a random megabyte would end an episode instead of exercising it."""


class UnicodeText(gymnasium.Space[str]):
    """Every Python string of up to `max_length` characters.

    `gymnasium.spaces.Text` wants its alphabet listed character by character, which for Unicode
    is a million of them. Lone surrogates are members (a broken decoder can produce them), though
    never sampled. Batches are tuples of strings.
    """

    def __init__(self, max_length: int = MAX_CHARS, seed: int | None = None) -> None:
        if max_length < 1:
            raise ValueError(f"max_length={max_length}: expected at least 1")
        self.max_length = max_length
        super().__init__(dtype=str, seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        return False

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """A string of at most 64 characters from all over Unicode."""
        if mask is not None or probability is not None:
            raise ValueError("UnicodeText samples without mask or probability: pass neither")
        length = self.np_random.integers(min(self.max_length, _SAMPLE_CHARS) + 1)
        # Every magnitude of code point is as likely as any other: ASCII is met as often as emoji.
        codes = self.np_random.integers(2 ** self.np_random.integers(7, 21, size=length))
        return "".join(chr(code + 0x800 if 0xD800 <= code < 0xE000 else code) for code in codes)

    def contains(self, x: Any) -> bool:
        return isinstance(x, str) and len(x) <= self.max_length

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnicodeText) and other.max_length == self.max_length

    def __repr__(self) -> str:
        return f"UnicodeText({self.max_length})"


@create_zero_array.register(UnicodeText)
def _(space: UnicodeText) -> str:
    """What wrappers that stack or delay observations fill the gaps with."""
    return ""
