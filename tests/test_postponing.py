"""Modules that are imported only when something of theirs is called."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from strategies.postponing import postponed

LIBRARY = """
def double(value, *, more=0):
    return 2 * value + more

class Other:
    pass
"""


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package whose module `slow_library.matching` nobody has imported."""
    package = tmp_path / "slow_library"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "matching.py").write_text(LIBRARY)
    monkeypatch.syspath_prepend(tmp_path)
    yield "slow_library.matching"
    for name in [name for name in sys.modules if name.startswith("slow_library")]:
        del sys.modules[name]


def importer(tmp_path: Path, line: str) -> str:
    (tmp_path / "importer.py").write_text(f"{line}\n")
    sys.modules.pop("importer", None)
    return "importer"


def test_imported_when_it_is_called(library: str, tmp_path: Path) -> None:
    with postponed(library, "double"):
        user = importlib.import_module(importer(tmp_path, f"from {library} import double"))
    assert library not in sys.modules
    assert user.double.__name__ == "double"
    assert user.double(4, more=1) == 9
    assert sys.modules[library].double(4) == 8


def test_another_name_imports_it_at_once(library: str, tmp_path: Path) -> None:
    with postponed(library, "double"):
        user = importlib.import_module(importer(tmp_path, f"from {library} import Other, double"))
        assert user.Other is sys.modules[library].Other
    assert sys.modules[library].double(1) == 2
    assert user.double(1) == 2


def test_a_name_that_it_lacks_is_refused_as_ever(library: str, tmp_path: Path) -> None:
    with postponed(library, "double"), pytest.raises(ImportError, match="nowhere"):
        importlib.import_module(importer(tmp_path, f"from {library} import nowhere"))


def test_what_is_there_already_stays(library: str) -> None:
    real = importlib.import_module(library)
    with postponed(library, "double"):
        assert importlib.import_module(library) is real
    assert sys.modules[library] is real


def test_whoever_imports_it_afterwards_gets_it(library: str) -> None:
    with postponed(library, "double"):
        pass
    assert importlib.import_module(library).Other.__name__ == "Other"


def test_a_walk_over_all_modules_does_not_import_it(library: str) -> None:
    with postponed(library, "double"):
        stand_in = sys.modules[library]
        assert inspect.getmodule(len) is not None
        assert str(stand_in.__file__).endswith("matching.py")
        assert not hasattr(stand_in, "__path__")
        assert sys.modules[library] is stand_in


def test_submodules_can_be_imported(library: str, tmp_path: Path) -> None:
    package = library.partition(".")[0]
    with postponed(package, "function"):
        user = importlib.import_module(importer(tmp_path, f"from {library} import double"))
        assert user.double(2) == 4
    assert importlib.import_module(library).double(3) == 6


def test_what_is_not_installed_is_refused_as_ever() -> None:
    with postponed("no_such_package.module", "double"), pytest.raises(ModuleNotFoundError):
        importlib.import_module("no_such_package.module")
