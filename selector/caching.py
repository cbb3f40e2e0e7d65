"""Facts about installed packages that take seconds to compute and only change with a version."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import platformdirs


def cached_names(
    what: str, packages: tuple[str, ...], compute: Callable[[], frozenset[str]]
) -> frozenset[str]:
    """Reads a set of names from the user's cache folder, or computes and keeps it there.

    A cache that cannot be read or written is as good as none.

    Args:
        what: Part of the file's name.
        packages: Whose versions the names depend on.
        compute: Gives the names.
    """
    versions = "-".join(f"{name}{version(name)}" for name in packages)
    path = Path(platformdirs.user_cache_dir("autoexport")) / f"{what}-{versions}.json"
    with contextlib.suppress(OSError, ValueError):
        return frozenset(json.loads(path.read_text()))
    names = compute()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{os.getpid()}")
        aside.write_text(json.dumps(sorted(names)))
        aside.replace(path)
    return names
