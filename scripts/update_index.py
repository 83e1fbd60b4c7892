"""Add passages to an index, or delete some, without building it again.

python scripts/update_index.py --index my_index --add new.jsonl --delete p17 p42
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from retrieval_index import PassageIndex, RetrievalError, update_index


@dataclass
class Options:
    """Change an index. What is served meanwhile goes on, and switches when the change is done."""

    index: Path
    """An index folder."""
    add: str | None = None
    """A corpus, as for build_index.py."""
    delete: tuple[str, ...] = ()
    """Ids. One that is also in the corpus to add is replaced."""
    restart: bool = False
    """Discard an unfinished change instead of going on with it."""
    verify: bool = False
    """Only check the SHA-256 of every file."""


def main() -> int:
    options = tyro.cli(Options, description=__doc__)
    try:
        if options.verify:
            index = PassageIndex.open(options.index, verify=True)
        else:
            if options.add is None and not options.delete:
                print("nothing to do: give --add, --delete or --verify", file=sys.stderr)
                return 2
            index = update_index(
                options.index, options.add, options.delete, restart=options.restart
            )
    except (RetrievalError, OSError, MemoryError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyError as error:
        print(f"--delete: {error.args[0]}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped: the same command goes on", file=sys.stderr)
        return 130
    state = "every file is whole" if options.verify else "is live"
    print(f"{index.generation}: {len(index):,} passages, {state}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
