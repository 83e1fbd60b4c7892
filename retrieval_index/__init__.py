"""Passages to a searchable index on disk, and back.

`build_index(corpus, out)` makes an index folder and `PassageIndex.open(out)` searches it. faiss,
sentence-transformers and rich are imported when first needed.
"""

from retrieval_index.builder import build_index
from retrieval_index.corpus import passage_text, read_corpus
from retrieval_index.encoders import (
    Encoder,
    HashingEncoder,
    SentenceTransformerEncoder,
    make_encoder,
)
from retrieval_index.errors import (
    CorpusError,
    EncoderError,
    IndexExistsError,
    IndexFileError,
    MissingPackageError,
    RetrievalError,
)
from retrieval_index.index import PassageIndex

__all__ = [
    "CorpusError",
    "Encoder",
    "EncoderError",
    "HashingEncoder",
    "IndexExistsError",
    "IndexFileError",
    "MissingPackageError",
    "PassageIndex",
    "RetrievalError",
    "SentenceTransformerEncoder",
    "build_index",
    "make_encoder",
    "passage_text",
    "read_corpus",
]
