"""The tag grammar: nothing a student writes may break it, nothing a passage says may enter it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovd_envs.grammar import TAGS, parse_action, render_documents, render_error
from retrieval_index.documents import Document

ANYTHING = st.text(st.characters(codec=None, exclude_categories=()), max_size=60)
TAG_SOUP = st.lists(
    st.sampled_from([f"<{slash}{tag}>" for slash in ("", "/") for tag in TAGS])
    | st.sampled_from([" ", "\n", "x", "é😀", "\ud800", "<", "</", ">", "<think", "<SEARCH>"])
).map("".join)
CONTENT = ANYTHING.filter(lambda text: "<" not in text and text.strip() != "")


@given(ANYTHING | TAG_SOUP)
def test_any_text_parses_to_a_known_kind(text: str) -> None:
    action = parse_action(text)
    assert action.kind in ("search", "answer", "think", "invalid")
    assert action.kind == "think" or action.content  # a think block alone may be empty
    if action.kind in ("search", "answer"):
        assert f"<{action.kind}>" in text
        assert not re.search("</?(think|search|information|answer)>", action.content)


@given(st.lists(CONTENT, max_size=3), st.sampled_from(["search", "answer"]), CONTENT, CONTENT)
def test_what_was_put_in_tags_comes_out(
    thoughts: list[str], kind: str, content: str, between: str
) -> None:
    blocks = [f"<think>{thought}</think>{between}" for thought in thoughts]
    action = parse_action(f"{''.join(blocks)}<{kind}>{content}</{kind}>\n")
    assert (action.kind, action.content) == (kind, content.strip())
    assert action.thought == "\n".join(thought.strip() for thought in thoughts)


def test_thinking_alone_is_a_think_action() -> None:
    assert parse_action("hm <think>a</think><think>b</think>").kind == "think"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no <think>"),
        ("just words", "no <think>"),
        ("<search>a", "<search> is not closed"),
        ("<search></search>", "<search> is empty"),
        ("<answer> \n </answer>", "<answer> is empty"),
        ("a</answer>", "</answer> without <answer>"),
        ("<think><search>a</search></think>", "<search> inside <think>"),
        ("<search>a</think>", "</think> without <think>"),
        ("<information>I made this up</information>", "only the environment"),
    ],
)
def test_a_malformed_action_is_told_why(text: str, why: str) -> None:
    action = parse_action(text)
    assert action.kind == "invalid"
    assert why in action.content
    assert action.content in render_error(action.content, "Do this.")


@given(CONTENT, st.sampled_from(["search", "answer"]), ANYTHING | TAG_SOUP)
def test_the_first_complete_tag_decides(content: str, kind: str, rest: str) -> None:
    action = parse_action(f"<{kind}>{content}</{kind}>{rest}")
    assert (action.kind, action.content) == (kind, content.strip())
    assert action.discarded_chars == len(rest.strip())


@given(st.lists(st.tuples(ANYTHING | TAG_SOUP, ANYTHING | TAG_SOUP), max_size=4))
def test_a_passage_can_not_inject_tags(texts: list[tuple[str, str]]) -> None:
    rendered = render_documents([Document(str(n), *text) for n, text in enumerate(texts)])
    assert re.findall("</?(?:think|search|information|answer)>", rendered) == [
        "<information>",
        "</information>",
    ]


def test_passages_are_numbered_and_kept_word_for_word() -> None:
    rendered = render_documents([Document("a", "T", "one <b>"), Document("b", "", "two")])
    assert rendered == "\n<information>\n[1] T: one <b>\n[2] two\n</information>\n"
    assert "No passage found" in render_documents([])


def test_a_thought_may_have_been_opened_by_the_chat_template() -> None:
    action = parse_action("let me see</think><search>x</search>")
    assert (action.kind, action.content, action.thought) == ("search", "x", "let me see")
    assert parse_action("let me see</think>").kind == "think"
    for text in ("<think>a</think>b</think>", "a</search>", "<search>a</think>"):
        assert parse_action(text).kind == "invalid"


def test_what_follows_a_thought_is_counted() -> None:
    assert parse_action("<think>a</think> and more").discarded_chars == len("and more")
