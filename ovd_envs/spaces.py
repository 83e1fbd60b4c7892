"""The space of all Unicode texts."""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium.vector.utils import create_shared_memory
from gymnasium.wrappers.utils import create_zero_array

MAX_CHARS = 1_000_000
_SAMPLE_CHARS = 64
"""Samples stay short: a random megabyte would end an episode instead of exercising it."""
ACTION_FORMS = (
    "{}",
    "<think>{}</think>",
    "<search>{}</search>",
    "<answer>{}</answer>",
    "<think>{}</think><search>a</search>",
    "<search>{}",
    "<answer></answer>{}",
    "<search>{}</search><answer>b</answer>",
)
"""What the samples of an action space look like: well-formed and malformed."""


class UnicodeText(gymnasium.Space[str]):
    """Every Python string of up to `max_length` characters.

    `gymnasium.spaces.Text` wants its alphabet listed character by character, which for Unicode
    is a million of them. Lone surrogates are members (a broken decoder can produce them), though
    never sampled. A sample is a random text in one of `forms`. Batches are tuples of strings.
    """

    def __init__(
        self,
        max_length: int = MAX_CHARS,
        seed: int | None = None,
        forms: tuple[str, ...] = ("{}",),
    ) -> None:
        if max_length < 1:
            raise ValueError(f"max_length={max_length}: expected at least 1")
        self.max_length = max_length
        self.forms = forms
        super().__init__(dtype=str, seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        return False

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """A string of at most 64 characters from all over Unicode, in one of the forms."""
        if mask is not None or probability is not None:
            raise ValueError("UnicodeText samples without mask or probability: pass neither")
        length = self.np_random.integers(min(self.max_length, _SAMPLE_CHARS) + 1)
        # Every magnitude of code point is as likely as any other: ASCII is met as often as emoji.
        codes = self.np_random.integers(2 ** self.np_random.integers(7, 21, size=length))
        text = "".join(chr(code + 0x800 if 0xD800 <= code < 0xE000 else code) for code in codes)
        form = self.forms[self.np_random.integers(len(self.forms))]
        return form.replace("{}", text)[: self.max_length]

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


@create_shared_memory.register(UnicodeText)
def _(space: UnicodeText, n: int = 1, ctx: Any = None) -> Any:
    """Gymnasium would read a text once, at construction, and then return blanks for ever."""
    raise TypeError(
        "text does not go through shared memory: pass shared_memory=False to AsyncVectorEnv,"
        ' or use gymnasium.make_vec("ovd/WebQA-v0", num_envs=64), which is batched and faster'
    )
