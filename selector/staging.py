"""Hands a module over to another process, with its classes and weights, in a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from selector.errors import InvalidRequestError, ModelLoadError
from strategies.base import first_line

if TYPE_CHECKING:
    from torch import nn


def stage_module(module: nn.Module, folder: Path) -> Path:
    """Writes a module into a private folder; returns the file.

    Raises:
        InvalidRequestError: Something in it cannot be pickled.
    """
    import torch  # noqa: PLC0415 - whoever has a module has it imported

    from selector import module_pickle  # noqa: PLC0415 - imports torch

    path = folder / "module.pt"
    try:
        torch.save(module, path, pickle_module=module_pickle)
    except MemoryError:
        raise
    except Exception as error:
        path.unlink(missing_ok=True)
        raise InvalidRequestError(
            f"{_unpicklable(module)} cannot be pickled ({first_line(error, 120)}), which handing "
            "the module to the export's own process takes; remove it before exporting"
        ) from error
    return path


def load_staged(path: Path, import_path: tuple[str, ...]) -> nn.Module:
    """Reads what `stage_module` wrote, weights mapped and not copied.

    Args:
        path: The file.
        import_path: `sys.path` of the process that wrote it, for the module's classes.

    Raises:
        ModelLoadError: It cannot be rebuilt here.
    """
    import torch  # noqa: PLC0415 - seconds of imports

    sys.path.extend(entry for entry in import_path if entry not in sys.path)
    try:
        # weights_only=False runs code from the file, which is safe for this one: our own
        # process pickled it from the user's own module into a folder that only we can write.
        module: nn.Module = torch.load(path, map_location="cpu", mmap=True, weights_only=False)
    except MemoryError:
        raise
    except Exception as error:
        raise ModelLoadError(
            f"the module cannot be rebuilt in the export's own process ({first_line(error)}); "
            "define its classes in a module that can be imported there"
        ) from error
    return module


def _unpicklable(module: nn.Module) -> str:
    """The attribute that stands in the way, or the class where none does alone."""
    from selector import module_pickle  # noqa: PLC0415 - imports torch

    for path, submodule in module.named_modules():
        for name, value in module_pickle.own_state(submodule).items():
            if name not in ("_parameters", "_buffers", "_modules"):
                try:
                    module_pickle.dumps(value)
                except Exception:  # noqa: BLE001 - objects refuse in any way they like
                    return ".".join(part for part in (type(module).__name__, path, name) if part)
    return type(module).__name__
