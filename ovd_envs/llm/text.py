"""Text that goes to a server's chat template: what comes from outside cannot end its own quotation,
nor be read as a control token. A server tokenizes messages and template together."""

from __future__ import annotations

import re

Messages = list[dict[str, str]]
_MARKS = re.compile(r"<{2,}|>{2,}")
CONTROL = re.compile(r"<[^<>\s]{1,40}>|<[|｜]|\[/?[A-Z_]{1,40}\]")
"""What control tokens look like: <|im_end|>, <end_of_turn>, </s>, [/INST]."""


def fenced(text: str) -> str:
    """Another's text between marks that it cannot write itself."""
    return f"<<<{_MARKS.sub(lambda found: ' '.join(found[0]), plain(text))}>>>"


def plain(text: str, own: frozenset[str] = frozenset()) -> str:
    """Text that no tokenizer reads as a control token, but for the tags in `own`."""

    def broken(found: re.Match[str]) -> str:
        return found[0] if found[0] in own else f"{found[0][0]} {found[0][1:]}"

    return CONTROL.sub(broken, text.encode("utf-8", "replace").decode())
