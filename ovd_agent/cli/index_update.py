"""Add passages to an index, or delete some, without building it again.

ovd index update --index my_index --add new.jsonl --delete p17 p42
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from retrieval_index import PassageIndex, update_index
from retrieval_index.errors import OptionError


@dataclass
class Options:
    """Change an index. A server keeps its generation and switches when the change is done."""

    index: Path
    """An index folder."""
    add: str | None = None
    """A corpus, as for `ovd index build`."""
    delete: tuple[str, ...] = ()
    """Ids. One that is also in the corpus to add is replaced."""
    restart: bool = False
    """Discard an unfinished change instead of resuming it."""
    verify: bool = False
    """Only check the SHA-256 of every file."""


def main(arguments: Sequence[str]) -> int:
    options = tyro.cli(Options, args=list(arguments), description=__doc__)
    if options.verify:
        index = PassageIndex.open(options.index, verify=True)
    elif options.add is None and not options.delete:
        raise OptionError("nothing to do: give --add, --delete or --verify")
    else:
        try:
            index = update_index(
                options.index, options.add, options.delete, restart=options.restart
            )
        except KeyError as error:
            raise OptionError(f"--delete: {error.args[0]}") from None
    state = "every file is whole" if options.verify else "is live"
    print(f"{index.generation}: {len(index):,} passages, {state}")
    return 0
