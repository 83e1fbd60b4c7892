"""Which checkpoints a run has, and its pointers to the latest and the best.

checkpoints/latest               the name of the newest complete checkpoint
checkpoints/best                 the name of the one with the highest held-out exact match
checkpoints/checkpoint-000007/   a checkpoint
"""

from __future__ import annotations

from pathlib import Path

from retrieval_index.files import write_atomically

PREFIX = "checkpoint-"
LATEST, BEST = "latest", "best"


def complete_checkpoints(root: Path) -> list[Path]:
    """The folders of complete checkpoints, oldest first."""
    return sorted(root.glob(f"{PREFIX}[0-9]*"))


def pointed(root: Path, pointer: str) -> Path | None:
    """The folder that a pointer names, if it is there."""
    file = root / pointer
    name = file.read_text().strip() if file.is_file() else ""
    return root / name if name and (root / name).is_dir() else None


def point(root: Path, pointer: str, target: Path) -> None:
    write_atomically(root / pointer, target.name)


def latest_checkpoint(folder: str | Path) -> Path:
    """The folder of the newest complete checkpoint. Raises FileNotFoundError if there is none."""
    root = Path(folder)
    if found := pointed(root, LATEST):
        return found
    existing = complete_checkpoints(root)
    if not existing:
        raise FileNotFoundError(f"no checkpoint in {root}: start without resuming, or fix the path")
    return existing[-1]
