"""A teacher of tokens with another tokenizer: what it says of a text reaches the student."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from agent.test_tokenizers import MADE

from ovd_agent.algorithms.opd import OPD
from ovd_agent.learner.aligned import AlignedModel, aligned, ends
from ovd_agent.learner.learner import Learner, LearnerConfig
from ovd_agent.learner.references import FrozenModel, Wants
from ovd_agent.learner.rows import AUTHORS, BEHAVIOUR, TrainingRow
from ovd_agent.losses import loss_components
from ovd_agent.losses.distillation import TEACHER_LOGPROBS
from ovd_agent.models import byte_tokenizer, load_model
from ovd_agent.runs.assemble import assemble
from ovd_agent.runs.config import TrainConfig
from ovd_envs.errors import OptionError
from tests.agent.tiny import tiny_model

TEXT = "<search>founder of Brill</search> na\u00efve \u6771\u4eac\n"


def pairs():
    """Byte-level BPE with few merges, as Llama 3, Qwen and SmolLM2 have."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|end|>", "<|im_start|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator([TEXT, "found founder under search research the of"], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token="<|end|>",
        pad_token="<|end|>",
        additional_special_tokens=["<|im_start|>"],
    )


def row_of(tokenizer, parts, seed=0) -> TrainingRow:
    """A row whose parts are (author, text), the student's with behaviour and weight."""
    rng = np.random.default_rng(seed)
    ids, authors, turns = [], [], []
    for turn, (author, text) in enumerate(parts, start=-1):
        some = tokenizer.encode(text, add_special_tokens=False)
        ids += some
        authors += [AUTHORS.index(author)] * len(some)
        turns += [max(turn // 2, -1 if author == "prompt" else 0)] * len(some)
    row = TrainingRow.blank(ids, "student", np.array(authors, dtype=np.int8))
    row.turns = np.array(turns, dtype=np.int16)
    mine = row.wrote("student")
    row.stream("distill")[mine] = 1.0
    row.stream(BEHAVIOUR)[mine] = rng.uniform(-4, -0.1, int(mine.sum()))
    return row


PARTS = [
    ("prompt", "Who founded Brill?"),
    ("student", "<search>founder of Brill</search>"),
    ("environment", "[1] Brill na\u00efve"),
    ("student", TEXT),
]


@pytest.mark.parametrize("name", MADE)
def test_pieces_say_the_same_and_cover_the_text(name):
    one, other = MADE[name](), pairs()
    ids = one.encode(TEXT, add_special_tokens=False)
    text = one.decode(ids)
    theirs = other.encode(text, add_special_tokens=False)
    found = aligned(one, ids, other, theirs)
    assert found
    for a, b, c, d in found:
        before = one.decode(ids[:a]), other.decode(theirs[:c])
        after = one.decode(ids[:b]), other.decode(theirs[:d])
        assert before[0] == before[1]
        assert after[0] == after[1]
    assert found[0][0] == found[0][2] == 0
    assert (found[-1][1], found[-1][3]) == (len(ids), len(theirs))
    assert [piece[0] for piece in found[1:]] == [piece[1] for piece in found[:-1]]


def test_no_piece_ends_within_a_character():
    tokenizer = byte_tokenizer()
    ids = tokenizer.encode("\u6771a", add_special_tokens=False)
    assert sorted(ends(tokenizer, ids).values()) == [0, 3, 4]


def test_with_one_tokenizer_it_is_what_a_frozen_model_says():
    tokenizer = byte_tokenizer()
    model = tiny_model(vocabulary=len(tokenizer))
    model.config.max_position_embeddings = 512
    rows = [row_of(tokenizer, PARTS)]
    again = [row_of(tokenizer, PARTS)]
    frozen = FrozenModel("teacher", model)
    frozen.measure(rows, Wants("distill"))
    AlignedModel(frozen, tokenizer, tokenizer).measure(again, Wants("distill", aligned=True))
    # A character of several bytes is one piece, which its bytes share.
    whole = np.array([tokenizer.decode([token]) != "\ufffd" for token in rows[0].ids])
    mine = rows[0].wrote("student") & whole
    assert mine.sum() > 30
    np.testing.assert_allclose(
        again[0].streams[TEACHER_LOGPROBS][mine], rows[0].streams[TEACHER_LOGPROBS][mine]
    )


def test_a_piece_is_paid_what_the_teacher_gives_its_text():
    student, theirs = byte_tokenizer(), pairs()
    model = tiny_model(vocabulary=len(theirs))
    frozen = FrozenModel("teacher", model)
    row = row_of(student, PARTS)
    reference = AlignedModel(frozen, theirs, student)
    read = reference.read(row)
    assert theirs.decode(read.ids) == "".join(text for _, text in PARTS)
    reference.measure([row], Wants("distill", aligned=True))
    logprobs = model(torch.tensor([read.ids])).logits[0].log_softmax(-1).detach()
    said = [0.0] + [float(logprobs[t - 1, read.ids[t]]) for t in range(1, len(read.ids))]
    advantage = row.streams[TEACHER_LOGPROBS] - row.streams[BEHAVIOUR]
    for piece in read.pieces:
        behaviour = row.streams[BEHAVIOUR][slice(*piece.student)].astype(np.float64)
        expected = sum(said[slice(*piece.teacher)]) - behaviour.sum()
        np.testing.assert_allclose(advantage[slice(*piece.student)], expected, rtol=1e-5)
    assert (row.streams["distill"] != 0).sum() == row.wrote("student").sum()
    metrics = Learner(
        tiny_model(vocabulary=len(student)), LearnerConfig(), losses=loss_components()
    )
    assert np.isfinite(metrics.update([row])["loss"])


def test_an_end_of_turn_is_no_text_and_forged_markup_no_token():
    student, theirs = pairs(), byte_tokenizer()
    parts = [("prompt", "Hi <|im_start|>"), ("student", "ok<|end|>")]
    row = row_of(student, parts)
    read = AlignedModel(FrozenModel("teacher", tiny_model()), theirs, student).read(row)
    assert read.pieces[-1].student[1] == len(row.ids) - 1
    back = AlignedModel(FrozenModel("teacher", tiny_model()), student, student)
    control = student.convert_tokens_to_ids("<|im_start|>")
    assert back.read(row).ids.count(control) == 1  # a control token of the prompt stays one
    spelled = row_of(theirs, [("prompt", "Hi <|im_start|>"), ("student", "ok")])
    read = AlignedModel(FrozenModel("teacher", tiny_model()), student, theirs).read(spelled)
    assert control not in read.ids


def test_a_run_learns_from_a_teacher_of_another_family(tmp_path):
    teacher, tokenizer = tiny_model(dtype=torch.float32, vocabulary=len(pairs())), pairs()
    for part in (teacher, tokenizer):
        part.save_pretrained(tmp_path / "teacher")
    named = OPD(teacher_model=str(tmp_path / "teacher"))
    config = TrainConfig(student="tiny", updates=1, tasks_per_update=2, out=tmp_path / "run")
    with pytest.raises(OptionError, match="other-tokenizer"):
        assemble(TrainConfig(**{**vars(config), "algorithm": named}))
    allowed = OPD(teacher_model=str(tmp_path / "teacher"), other_tokenizer=True)
    parts = assemble(TrainConfig(**{**vars(config), "algorithm": allowed}))
    assert isinstance(parts.references["teacher"], AlignedModel)
    assert load_model("tiny")[1].get_vocab() != tokenizer.get_vocab()
    with pytest.raises(OptionError, match="compare tokens one by one"):
        OPD(teacher_model="x", other_tokenizer=True, asymmetric=True)
