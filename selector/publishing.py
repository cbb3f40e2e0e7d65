"""Where the result goes: checked before any work, and replaced in one step at the end."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from selector.errors import InvalidRequestError
from strategies.base import DATA_FILE, MODEL_FILE

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where the model file goes.

    Attributes:
        path: The model file.
        is_folder: Whether its folder is the result, with the companion files in it.
    """

    path: Path
    is_folder: bool

    @property
    def staging_parent(self) -> Path:
        """An existing folder on the same file system."""
        return self.path.parent.parent if self.is_folder else self.path.parent


def plan_target(output: str | os.PathLike[str] | None, stem: str) -> Target:
    """Decides and checks where the file goes: `<stem>.onnx` here, a file, or a folder.

    Raises:
        InvalidRequestError: The place cannot be written.
    """
    path = Path(output) if output is not None else Path(f"{stem}.onnx")
    is_folder = path.suffix != ".onnx"
    path = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow a link at the target
    target = Target(path=path / MODEL_FILE if is_folder else path, is_folder=is_folder)
    _require_writable(target, path)
    return target


def _require_writable(target: Target, asked: Path) -> None:
    parent = target.staging_parent
    if not parent.is_dir():
        raise InvalidRequestError(f"cannot write {asked}: folder {parent} does not exist")
    if target.is_folder and asked.exists() and not asked.is_dir():
        raise InvalidRequestError(
            f"cannot write {asked}: it is a file; name a folder or a file that ends in .onnx"
        )
    if target.path.is_dir():
        raise InvalidRequestError(f"cannot write {target.path}: it is a folder")
    for folder in {parent, target.path.parent}:
        if folder.is_dir() and not os.access(folder, os.W_OK):
            raise InvalidRequestError(f"cannot write {asked}: no permission to write in {folder}")


def publish(staged: Path, target: Target, companions: Sequence[Path] = ()) -> Path:
    """Moves a verified file into place, its external data and companion files first.

    The model file itself is replaced in one step, so that at any moment there stands the
    old one, whole, or the new one.

    Args:
        staged: Folder with `model.onnx` and, maybe, `model.onnx.data`; it must lie on
            the target's file system.
        target: Where it goes.
        companions: Files to copy beside it, where the target is a folder.

    Raises:
        InvalidRequestError: The file system refused.
    """
    try:
        target.path.parent.mkdir(exist_ok=True)
        _move_model(staged, target.path)
        if target.is_folder:
            for file in companions:
                _copy(file, target.path.parent / file.name, staged)
    except OSError as error:
        raise InvalidRequestError(f"cannot write {target.path}: {error.strerror}") from error
    return target.path


def _move_model(staged: Path, path: Path) -> None:
    model, data = staged / MODEL_FILE, staged / DATA_FILE
    stale = _data_files(path)
    if data.exists():
        name = path.with_name(f"{path.name}.data")
        if name.exists():
            # The old model still needs its data until it is replaced itself.
            name = path.with_name(f"{path.stem}-{_digest(data)}.onnx.data")
        if name.name != DATA_FILE:
            _relocate(model, name.name)
        data.replace(name)
        stale.discard(name)
    model.replace(path)
    for file in stale:
        file.unlink(missing_ok=True)


def _data_files(path: Path) -> set[Path]:
    """Data files beside a model that it refers to, by a name that this module gives."""
    if not any(path.parent.glob(f"{path.stem}*.onnx.data")) or not path.is_file():
        return set()
    named_here = re.compile(rf"{re.escape(path.stem)}(-[0-9a-f]{{8}})?\.onnx\.data")
    try:
        locations = {entry.value for entry in _locations(_graph_only(path))}
    except Exception:  # noqa: BLE001 - whatever stands there, it is not ours to tidy up
        return set()
    return {path.with_name(name) for name in locations if named_here.fullmatch(name)}


def _relocate(model: Path, name: str) -> None:
    """Points the file's external data to another name in the same folder."""
    proto = _graph_only(model)
    for entry in _locations(proto):
        entry.value = name
    model.write_bytes(proto.SerializeToString())


def _graph_only(path: Path) -> onnx.ModelProto:
    import onnx  # noqa: PLC0415 - rarely needed, and slow to import

    return onnx.load(path, load_external_data=False)


def _locations(proto: onnx.ModelProto) -> Iterator[onnx.StringStringEntryProto]:
    for tensor in proto.graph.initializer:
        yield from (entry for entry in tensor.external_data if entry.key == "location")


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:8]


def _copy(file: Path, target: Path, staged: Path) -> None:
    if file.resolve() == target.resolve():
        return
    aside = staged / file.name
    shutil.copyfile(file, aside)
    aside.replace(target)
