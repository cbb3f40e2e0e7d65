"""Where the result goes: checked before any work, and replaced in one step at the end."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from selector.errors import InvalidRequestError
from strategies.base import DATA_ENDINGS, MODEL_FILE

if TYPE_CHECKING:
    import onnx

# What `strategies.saving` gives files with weights, after the stem: one for bytes from memory,
# one or several with those of a checkpoint.
_DATA = r"(\.onnx\.data|(-\d{5}-of-\d{5})?\.safetensors)"
_CHOSEN = r"(-[0-9a-f]{8})?"
_PRODUCER = "autoexport"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where the model file goes.

    Attributes:
        path: The model file.
        is_folder: Whether its folder is the result, with the companion files in it.
        data_stem: What names of files with its weights begin with: the model's own stem, or
            one made from it where such files, of an older model or a checkpoint, are there.
    """

    path: Path
    is_folder: bool
    data_stem: str

    @property
    def staging_parent(self) -> Path:
        """An existing folder on the same file system."""
        folder = self.path.parent
        if not self.is_folder or _is_mounted(folder):
            return folder
        return folder.parent


def _is_mounted(folder: Path) -> bool:
    """Whether a folder, or what it is a link to, lies on another file system than its parent."""
    return folder.is_dir() and folder.stat().st_dev != folder.parent.stat().st_dev


def plan_target(output: str | os.PathLike[str] | None, stem: str) -> Target:
    """Decides and checks where the file goes: `<stem>.onnx` here, a file, or a folder.

    Raises:
        InvalidRequestError: The place cannot be written.
    """
    path = Path(output) if output is not None else Path(f"{stem}.onnx")
    is_folder = path.suffix != ".onnx"
    path = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow a link at the target
    file = path / MODEL_FILE if is_folder else path
    target = Target(path=file, is_folder=is_folder, data_stem=_free_stem(file))
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


def _free_stem(path: Path) -> str:
    """The model's stem; with a token where files with weights bear it, which must stay as yet."""
    named = re.compile(re.escape(path.stem) + _DATA)
    there = path.parent.iterdir() if path.parent.is_dir() else iter(())
    taken = any(named.fullmatch(item.name) for item in there)
    return f"{path.stem}-{secrets.token_hex(4)}" if taken else path.stem


def publish(
    staged: Path,
    target: Target,
    companions: Sequence[Path] = (),
    *,
    spare: Collection[Path] = (),
) -> Path:
    """Moves a verified file into place, its weights and companion files first.

    The model file itself is replaced in one step, so that at any moment there stands the
    old one, whole, or the new one. Then the weights of the old one are removed, where they
    are known to be its own.

    Args:
        staged: Folder with `model.onnx` and the files with its weights; it must lie on
            the target's file system.
        target: Where it goes.
        companions: Files to copy beside it, where the target is a folder.
        spare: Files not to remove: those of the checkpoint that the model was made from.

    Raises:
        InvalidRequestError: The file system refused.
    """
    try:
        target.path.parent.mkdir(exist_ok=True)
        _move_model(staged, target.path, spare)
        if target.is_folder:
            for file in companions:
                _copy(file, target.path.parent / file.name, staged)
    except OSError as error:
        raise InvalidRequestError(f"cannot write {target.path}: {error.strerror}") from error
    return target.path


def _move_model(staged: Path, path: Path, spare: Collection[Path]) -> None:
    model = staged / MODEL_FILE
    stale = _data_files(path)
    names = {
        file.name: file.name
        for file in sorted(staged.iterdir())
        if file.name.endswith(DATA_ENDINGS)
    }
    if any(os.path.lexists(path.with_name(name)) for name in names):
        # Something came there since the names were chosen.
        names = _other_names(names, path.stem)
        _relocate(model, names)
    for old, new in names.items():
        (staged / old).replace(path.with_name(new))
    model.replace(path)
    kept = {path.with_name(name) for name in names.values()}
    kept.update(item.parent.resolve() / item.name for item in spare)
    for file in stale:
        if not {file, file.parent.resolve() / file.name} & kept:
            file.unlink(missing_ok=True)


def _data_files(path: Path) -> set[Path]:
    """Files with weights that belong to the model at a path and to nobody else.

    They have names that are given here, a model that was made here refers to them, and they
    have not been written to since it was.
    """
    named_here = re.compile(re.escape(path.stem) + _CHOSEN + _DATA)
    if not path.is_file() or not any(named_here.fullmatch(f.name) for f in path.parent.iterdir()):
        return set()
    try:
        proto = _graph_only(path)
    except Exception:  # noqa: BLE001 - whatever stands there, it is not ours to tidy up
        return set()
    if proto.producer_name != _PRODUCER:
        return set()
    written = path.stat().st_mtime_ns
    names = {entry.value for entry in _locations(proto) if named_here.fullmatch(entry.value)}
    found = (path.with_name(name) for name in names)
    return {file for file in found if file.is_file() and file.stat().st_mtime_ns <= written}


def _other_names(names: Collection[str], stem: str) -> dict[str, str]:
    token = secrets.token_hex(4)
    found = ((name, re.search(f"{_DATA}$", name)) for name in names)
    return {name: f"{stem}-{token}{end.group()}" for name, end in found if end is not None}


def _relocate(model: Path, names: Mapping[str, str]) -> None:
    """Points the file's external data to other names in the same folder."""
    proto = _graph_only(model)
    for entry in _locations(proto):
        entry.value = names.get(entry.value, entry.value)
    model.write_bytes(proto.SerializeToString())


def _graph_only(path: Path) -> onnx.ModelProto:
    import onnx  # noqa: PLC0415 - rarely needed, and slow to import

    return onnx.load(path, load_external_data=False)


def _locations(proto: onnx.ModelProto) -> Iterator[onnx.StringStringEntryProto]:
    for tensor in proto.graph.initializer:
        yield from (entry for entry in tensor.external_data if entry.key == "location")


def _copy(file: Path, target: Path, staged: Path) -> None:
    if file.resolve() == target.resolve():
        return
    aside = staged / file.name
    shutil.copyfile(file, aside)
    aside.replace(target)
