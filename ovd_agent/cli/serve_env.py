"""Serve an environment by OpenEnv's protocol, on loopback.

    pip install openenv-core
    ovd serve-env --env ovd/WebQA-v0 --port 8000 --options '{"hops": [1, 2]}'

`ovd_envs.integrations.openenv` has a client; other clients of OpenEnv send {"text": ...} as action.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

import tyro

from ovd_envs.errors import OptionError
from ovd_envs.registry import DEFAULT_ENV


@dataclass(frozen=True)
class Options:
    """Serve an environment."""

    env: str = DEFAULT_ENV
    """Its id."""
    options: str = "{}"
    """Its options as a JSON object."""
    host: str = "127.0.0.1"
    port: int = 8000
    sessions: int = 64
    """Connections at once, each with an episode of its own."""


def main(arguments: Sequence[str]) -> int:
    options = tyro.cli(Options, args=list(arguments), description=__doc__)
    for package in ("openenv", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            raise OptionError("serving an environment needs OpenEnv: pip install openenv-core")
    given = parsed(options.options)
    adapter: Any = import_module("ovd_envs.integrations.openenv")
    app = adapter.make_app(options.env, options.sessions, **given)
    print(f"{options.env} at http://{options.host}:{options.port}")
    import_module("uvicorn").run(app, host=options.host, port=options.port, log_level="warning")
    return 0


def parsed(text: str) -> dict[str, Any]:
    """Raises OptionError where the text is no JSON object."""
    try:
        found: Any = json.loads(text)
    except ValueError as error:
        raise OptionError(f"options={text!r}: not JSON ({error})") from None
    if not isinstance(found, dict):
        raise OptionError(f"options={text!r}: expected a JSON object")
    return cast("dict[str, Any]", found)
