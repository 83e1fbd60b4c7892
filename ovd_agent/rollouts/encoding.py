"""Text to ids. What comes from outside is encoded as text: a passage, a question or a student that
spells a control token such as <|im_end|> gets its letters, never the token."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from ovd_envs.grammar import TAGS

_MARK = "\ue000{}\ue001"  # private-use characters: no template and no text has them
_MARKS = re.compile("\ue000(\\d+)\ue001")


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a span that the student did not write, without special tokens."""
    if not text:
        return []
    # Only where it matters: text without control tokens has the same ids either way.
    literal = _spells_special(tokenizer, text)
    return list(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=literal))


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, prompt: str, template: Mapping[str, Any] | None = None
) -> list[int]:
    """Ids of the first prompt, in the tokenizer's chat template if it has one, else after the
    beginning-of-sequence token if the tokenizer adds one.

    `template` are arguments of the chat template, such as `enable_thinking`. The template is for
    the first prompt only: after it ids are appended, never rendered again.
    """
    if tokenizer.chat_template:
        return encode_chat(tokenizer, [{"role": "user", "content": prompt.strip()}], template)
    begins = list(tokenizer.encode("", add_special_tokens=True))
    bos = [begins[0]] if begins and begins[0] == tokenizer.bos_token_id else []
    return bos + encode(tokenizer, prompt)


def encode_chat(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, str]],
    template: Mapping[str, Any] | None = None,
) -> list[int]:
    """Ids of messages in the chat template, ready for an answer."""

    def rendered(contents: Sequence[str]) -> str:
        chat = [{**m, "content": text} for m, text in zip(messages, contents, strict=True)]
        options: dict[str, Any] = {**(template or {})}
        return str(
            tokenizer.apply_chat_template(
                chat, tokenize=False, add_generation_prompt=True, **options
            )
        )

    contents = [message["content"] for message in messages]
    if not any(_spells_special(tokenizer, text) for text in contents):
        return list(tokenizer.encode(rendered(contents), add_special_tokens=False))
    marked = rendered([_MARK.format(place) for place in range(len(contents))])
    ids: list[int] = []
    for index, piece in enumerate(_MARKS.split(marked)):
        if index % 2:
            ids += encode(tokenizer, contents[int(piece)])
        elif piece:
            ids += tokenizer.encode(piece, add_special_tokens=False)
    return ids


def decode_action(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """A student's text as it wrote it; only the special tokens that end it are left out.

    A special token inside stays visible: dropping it would make "<sea<|im_end|>rch>" a search, and
    a student whose tags are special tokens would say nothing.
    """
    kept, ends = list(ids), _controls(tokenizer)
    while kept and kept[-1] in ends:
        kept.pop()
    return str(tokenizer.decode(kept, skip_special_tokens=False))


_TAGS = {f"<{slash}{tag}>" for tag in TAGS for slash in ("", "/")}


def _controls(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids of the special tokens that are no tags of the grammar."""
    found = zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)
    return {index for token, index in found if token not in _TAGS}


def _spells_special(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    return any(token in text for token in tokenizer.all_special_tokens)
