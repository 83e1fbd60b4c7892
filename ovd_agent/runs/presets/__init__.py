"""Presets: options of `TrainConfig` as small TOML files beside this one."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ovd_envs.errors import OptionError
from retrieval_index.options import did_you_mean

HERE = Path(__file__).parent


def preset_names() -> list[str]:
    return sorted(path.stem for path in HERE.glob("*.toml"))


def read_preset(name: str) -> dict[str, Any]:
    """The options of a preset, by its name or as a TOML file. Raises OptionError."""
    path = Path(name) if name.endswith(".toml") else HERE / f"{name}.toml"
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        hint = did_you_mean(name, preset_names())
        raise OptionError(f"no preset is called {name!r}: {hint}, or a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise OptionError(f"preset {path}: not TOML ({error})") from None


def take_preset(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """The value of --preset, and the other arguments."""
    rest, preset = list[str](), None
    words = iter(arguments)
    for word in words:
        if word == "--preset":
            preset = next(words, "")
        elif word.startswith("--preset="):
            preset = word.partition("=")[2]
        else:
            rest.append(word)
    return preset, rest
