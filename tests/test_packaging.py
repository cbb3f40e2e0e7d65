"""The wheel: exactly our files, installed into a clean environment and used there."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

NOWHERE = "/"


def run(*command: str | Path, cwd: str | Path) -> str:
    """The command's stdout; fails with both streams where it failed."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=clean,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def project(root: Path) -> dict[str, Any]:
    return tomllib.loads((root / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = ("-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ".")
    run(sys.executable, *build, cwd=root)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of a fresh environment that has the wheel and our dependencies."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    install = ("install", "--quiet", "--no-deps", "--no-index", wheel)
    run(sys.executable, "-m", "pip", "--python", python, *install, cwd=folder)
    # Downloading torch again would prove nothing; a path line makes its folder importable
    # and, other than a site folder, brings no editable install of ours along.
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = folder / "lib" / version / "site-packages"
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def test_wheel_holds_our_files_and_no_other(root: Path, wheel: Path) -> None:
    listing = ("git", "ls-files", "--cached", "--others", "--exclude-standard")
    tracked = run(*listing, "selector", "strategies", "training_data", cwd=root).splitlines()
    expected = {
        f"selector/{name}" if name.startswith("training_data/") else name
        for name in tracked
        if (root / name).exists()
    }
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    about = {name for name in names if name.split("/")[0] == "autoexport-0.1.0.dist-info"}
    assert names - about == expected
    assert {name.partition("/")[2] for name in about} == {
        "METADATA",
        "RECORD",
        "WHEEL",
        "entry_points.txt",
        "licenses/LICENSE",
    }


def test_wheel_is_typed_and_carries_its_training_data(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"selector/py.typed", "strategies/py.typed"} <= names
    assert any(re.fullmatch(r"selector/training_data/.+\.json", name) for name in names)


def test_installed_command_runs_from_anywhere(installed: Path) -> None:
    assert run(installed / "autoexport", "--version", cwd=NOWHERE) == "autoexport 0.1.0\n"
    assert run(installed / "python", "-m", "selector", "--version", cwd=NOWHERE) == (
        "autoexport 0.1.0\n"
    )


def test_installed_packages_are_those_of_the_wheel(installed: Path) -> None:
    code = (
        "import selector, strategies\n"
        "from strategies import registry\n"
        "print(selector.__file__)\n"
        "print(strategies.__file__)\n"
        "print([type(registry.resolve(name)).__module__ for name in registry.BUILTIN])\n"
    )
    lines = run(installed / "python", "-c", code, cwd=NOWHERE).splitlines()
    assert lines[2] == "['strategies.usage_based', 'strategies.htp', 'strategies.fx']"
    for file in lines[:2]:
        assert Path(file).is_relative_to(installed.parent)


def test_dependencies_have_lower_bounds_only(project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"]["dev"]
    for line in [*project["project"]["dependencies"], *extras]:
        operators = [bound.operator for bound in Requirement(line).specifier]
        assert operators == [">="], line


def test_constraints_pin_every_dependency_within_its_bounds(
    root: Path, project: dict[str, Any]
) -> None:
    lines = (root / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert pins["torch"] == "2.13.0"
    extras = project["project"]["optional-dependencies"]["dev"]
    for line in [*project["project"]["dependencies"], *extras]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(pins[requirement.name]), line


def test_what_is_imported_is_declared_and_nothing_else(root: Path, project: dict[str, Any]) -> None:
    distributions = packages_distributions()
    imported = {
        canonicalize_name(distributions[name][0])
        for package in ("selector", "strategies")
        for file in (root / package).rglob("*.py")
        for name in imported_packages(file)
    }
    declared = {Requirement(line).name for line in project["project"]["dependencies"]}
    assert imported == {canonicalize_name(name) for name in declared}


def imported_packages(file: Path) -> set[str]:
    """Top-level names of the third-party modules that a file imports anywhere."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names - sys.stdlib_module_names - {"selector", "strategies"}
