"""The user's cache folder: built-in search indexes and converted models."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "OVD_CACHE"


def cache_folder() -> Path:
    """The folder that OVD_CACHE names, or the platform's for caches."""
    from platformdirs import user_cache_dir

    return Path(os.environ.get(CACHE_VARIABLE) or user_cache_dir("ovd"))
