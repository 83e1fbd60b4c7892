"""What can go wrong, by kind. Every message is one sentence that a user can act on."""

REBUILD = "delete the index folder and build it again"


class OVDError(Exception):
    """The base of every error of the suite: a command prints its message and ends with status 2."""


class OptionError(OVDError, ValueError):
    """An option, or a combination of options, is invalid."""


class RetrievalError(OVDError, ValueError):
    """The base of the errors of an index."""


class CorpusError(RetrievalError):
    """The corpus is missing, empty or malformed."""


class EncoderError(RetrievalError):
    """The encoder is unknown, does not load, or is not the one the index was built with."""


class IndexFileError(RetrievalError):
    """An index folder is missing, incomplete, damaged or from a newer version."""


class IndexExistsError(IndexFileError):
    """The output folder already holds something else."""


class MissingPackageError(RetrievalError):
    """An optional package is needed and not installed."""

    def __init__(self, package: str, purpose: str, extra: str = "index") -> None:
        super().__init__(f'{purpose} needs {package}: pip install "ovd[{extra}]"')
