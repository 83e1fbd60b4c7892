"""The text space takes any Unicode string and is at home in Gymnasium's machinery."""

from __future__ import annotations

import json
from copy import deepcopy

import pytest
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate
from hypothesis import given
from hypothesis import strategies as st

from ovd_envs.spaces import UnicodeText


@given(st.text(st.characters(codec=None, exclude_categories=()), max_size=30))
def test_any_string_up_to_the_length_is_a_member(text: str) -> None:
    assert text in UnicodeText()
    assert text in UnicodeText(30)
    assert (text in UnicodeText(10)) == (len(text) <= 10)


@pytest.mark.parametrize("other", [None, 3, b"bytes", ["a"]])
def test_other_things_are_not_members(other: object) -> None:
    assert other not in UnicodeText()


def test_samples_are_varied_valid_and_repeatable() -> None:
    space, twin = UnicodeText(seed=4), UnicodeText(seed=4)
    samples = [space.sample() for _ in range(300)]
    assert samples == [twin.sample() for _ in range(300)]
    assert samples != [UnicodeText(seed=5).sample() for _ in range(300)]
    assert all(sample in space for sample in samples)
    assert {len(sample) for sample in samples} == set(range(65))
    text = "".join(samples)
    text.encode()  # a lone surrogate would raise
    assert any(character.isascii() for character in text)
    assert any(ord(character) > 0xFFFF for character in text)
    assert max(len(UnicodeText(3, seed=n).sample()) for n in range(20)) <= 3


def test_equality_repr_copy_and_json() -> None:
    space = UnicodeText(7, seed=1)
    assert space == UnicodeText(7) == deepcopy(space)
    assert space != UnicodeText(8)
    assert space != "UnicodeText(7)"
    assert repr(space) == "UnicodeText(7)"
    samples = [space.sample(), "\ud800"]
    assert space.from_jsonable(json.loads(json.dumps(space.to_jsonable(samples)))) == samples


def test_batches_are_tuples() -> None:
    space = UnicodeText(7, seed=1)
    batched = batch_space(space, 3)
    batch = batched.sample()
    assert batch in batched
    assert len(set(batch)) == 3
    assert concatenate(space, batch, create_empty_array(space, 3)) == batch
    assert tuple(iterate(batched, batch)) == batch


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="max_length=0"):
        UnicodeText(0)
    with pytest.raises(ValueError, match="without mask"):
        UnicodeText().sample(mask=[1])
