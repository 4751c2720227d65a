"""Keeps from the coordinator's processes every library that could read or learn from patients.

`install()` runs first in each of them (the server and every run's process). From then on an import
of such a library fails, however deep in other code it stands.
"""

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Sequence
from typing import Final

REFUSED: Final = frozenset(
    {"torch", "monai", "opacus", "pydicom", "nibabel", "wardround.datasets", "wardround.client"}
)


class _Guard(importlib.abc.MetaPathFinder):
    """Refuses the modules of `REFUSED` and everything below them."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: types.ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        del path, target
        if is_refused(fullname):
            raise ImportError(
                f"{fullname} must not be loaded in a coordinator's process", name=fullname
            )
        return None


def is_refused(module: str) -> bool:
    """Whether a module name is one of `REFUSED`, or below one."""
    parts = module.split(".")
    return any(".".join(parts[: end + 1]) in REFUSED for end in range(len(parts)))


def install() -> None:
    """Refuse these imports from now on. Raises ImportError if one has been loaded already."""
    loaded = sorted(name for name in sys.modules if is_refused(name))
    if loaded:
        raise ImportError(f"{loaded[0]} is loaded already in a coordinator's process")
    if not any(isinstance(finder, _Guard) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Guard())


def remove() -> None:
    """Allow the imports again (for tests that run in one process)."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Guard)]
