"""Where a model comes from: a Hub id, a folder, a type name or a module becomes a `ModelSource`."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from selector import checkpoint, hub_errors
from selector.checkpoint import config_digest
from selector.errors import InvalidRequestError, ModelLoadError
from selector.staging import stage_module
from selector.tasks import TASKS
from strategies.registry import unknown_name_message

if TYPE_CHECKING:
    from tenacity import RetryCallState
    from torch import nn
    from transformers import PreTrainedConfig

    from selector.weights import WeightStore

__all__ = [
    "LoadedModel",
    "ModelSource",
    "companion_files",
    "config_digest",
    "load",
    "resolve",
    "stage_module",
]

_Result = TypeVar("_Result")

# A try is one request. Waits double from 0.2 s and are jittered, so that many clients that were
# refused together do not come back together.
_TRIES = 5
_FIRST_WAIT = 0.2
_LONGEST_WAIT = 5.0
_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Where a model comes from and how it is to be loaded; picklable.

    Attributes:
        name: For display and for the file's name: `name` of the Hub id `org/name`.
        kind: What `origin` is.
        origin: The Hub id, the folder, the type name, or the module's class.
        folder: The checkpoint; for a Hub id the snapshot in the Hub's cache.
        revision: Branch, tag or commit that was asked for.
        commit: Commit hash of the snapshot.
        random_weights: Whether to make weights up instead of reading them.
        trust_remote_code: Whether code from the checkpoint may run.
        task: The Hub's task name that decides the class; None leaves it to the config.
        module_file: Where `stage_module` wrote the module.
        import_path: The caller's `sys.path`, for the classes of a module.
        notes: What the user should know about how it was found.
    """

    name: str
    kind: Literal["hub", "folder", "type", "module"]
    origin: str
    folder: Path | None = None
    revision: str | None = None
    commit: str | None = None
    random_weights: bool = False
    trust_remote_code: bool = False
    task: str | None = None
    module_file: Path | None = None
    import_path: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model in memory.

    Attributes:
        module: In eval mode, without gradients.
        config: The transformers config; None for a plain module.
        source: Where it came from.
        weights: Which of its tensors lie in the checkpoint's files, and where; parameters
            that are stored in half precision may still have to be filled.
        notes: What the user should know: random weights, converted dtypes.
    """

    module: nn.Module
    config: PreTrainedConfig | None
    source: ModelSource
    weights: WeightStore
    notes: tuple[str, ...] = ()


def resolve(  # noqa: PLR0913 - one keyword for each way to say which model is meant
    model: str | os.PathLike[str] | nn.Module,
    *,
    revision: str | None = None,
    token: str | None = None,
    random_weights: bool = False,
    trust_remote_code: bool = False,
    task: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> ModelSource:
    """Finds a model's files, fetching from the Hub what is needed and not yet cached.

    Args:
        model: A folder, a Hub id, a type name that AutoConfig knows (`bert`, with
            `random_weights` only), or a module.
        revision: Branch, tag or commit of a Hub id.
        token: Access token for the Hub; None lets the Hub's client look for one.
        random_weights: Fetch no weights; make them up when loading.
        trust_remote_code: Allow code from the checkpoint to run.
        task: The Hub's task name, where the config's own class is not the wanted one.
        progress: Called with the name of each file before it is fetched.

    Raises:
        InvalidRequestError: The arguments contradict each other, or the task is unknown.
        ModelLoadError: There is no such model, it may not be read, or it is broken.
    """
    if task is not None and task not in TASKS:
        raise InvalidRequestError(unknown_name_message("task", task, tuple(TASKS)))
    asked = ModelSource(
        name="",
        kind="hub",
        origin=os.fspath(model) if isinstance(model, (str, os.PathLike)) else "",
        revision=revision,
        random_weights=random_weights,
        trust_remote_code=trust_remote_code,
        task=task,
    )
    if not isinstance(model, (str, os.PathLike)):
        return _from_module(model, asked)
    folder = Path(asked.origin).expanduser()
    if asked.origin and os.path.isdir(folder):  # noqa: PTH112 - Path.is_dir raises on a name too long to exist
        return _from_folder(folder, asked)
    if os.path.isfile(folder):  # noqa: PTH113 - the same for Path.is_file
        raise ModelLoadError(f"{folder} is a file; pass the folder that holds it and config.json")
    if not isinstance(model, str):
        raise ModelLoadError(f"no such folder: {asked.origin!r}")
    if random_weights and "/" not in model:
        _refuse_revision(asked, "a type name")
        return replace(asked, name=_stem(model), kind="type")
    return _from_hub(asked, token, progress or (lambda _: None))


def load(source: ModelSource, *, real: bool = True) -> LoadedModel:
    """Loads a model; for a process of its own, whose library settings it changes.

    Progress bars, logging and thread pools of transformers are turned off for the rest of
    the process. Random weights are the same every time. The weights of safetensors files are
    mapped, not read.

    Args:
        source: From `resolve`.
        real: Whether every parameter gets its values now; without, those that are stored in
            half precision wait for `weights.fill()`.

    Raises:
        ModelLoadError: The checkpoint does not fit its class, or the class is not to be had.
        InvalidRequestError: The model has no class for the task.
    """
    from selector import loading  # noqa: PLC0415 - imports torch, which --help must not

    return loading.load(source, real=real)


def companion_files(source: ModelSource) -> tuple[Path, ...]:
    """The checkpoint's configs, tokenizer and preprocessor files, sorted by name.

    Those of a Hub model are symlinks into the Hub's cache: copy what they point to.
    """
    names = sorted(item.name for item in source.folder.iterdir()) if source.folder else []
    return tuple(
        source.folder / name
        for name in names
        if source.folder and _is_wanted(name, source) and (source.folder / name).is_file()
    )


def _is_wanted(name: str, asked: ModelSource) -> bool:
    return checkpoint.is_companion(name, remote_code=asked.trust_remote_code)


def _from_module(module: Any, asked: ModelSource) -> ModelSource:
    # Nobody can hold an nn.Module without having imported torch.
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(module, torch.nn.Module):
        hint = ", an instance and not the class" if isinstance(module, type) else ""
        raise InvalidRequestError(
            f"model must be a Hub id, a folder or an nn.Module{hint}; got {module!r:.80}"
        )
    _refuse_revision(asked, "an nn.Module")
    if asked.random_weights:
        raise InvalidRequestError("random_weights is not for an nn.Module, which has its weights")
    path = getattr(getattr(module, "config", None), "name_or_path", "")
    cls = type(module)
    return replace(
        asked,
        name=_stem(path if isinstance(path, str) and path else cls.__name__),
        kind="module",
        origin=f"{cls.__module__}.{cls.__qualname__}",
        import_path=tuple(entry or str(Path.cwd()) for entry in sys.path),
    )


def _from_folder(folder: Path, asked: ModelSource) -> ModelSource:
    _refuse_revision(asked, "a folder")
    folder = folder.resolve()
    _check_folder(folder, asked)
    return replace(asked, name=_stem(folder.name), kind="folder", origin=str(folder), folder=folder)


def _check_folder(folder: Path, asked: ModelSource) -> None:
    config = checkpoint.read_config(folder)
    if asked.random_weights:
        return
    names = {item.name for item in folder.iterdir()}
    entry = checkpoint.weights_entry(names, config)
    if entry is None:
        raise ModelLoadError(checkpoint.missing_weights(str(folder), names))
    checkpoint.check_weights(folder, entry)


def _from_hub(
    asked: ModelSource, token: str | None, progress: Callable[[str], None]
) -> ModelSource:
    from huggingface_hub import constants  # noqa: PLC0415 - 0.3 s of imports

    cached = _cached_snapshot(asked)
    notes: tuple[str, ...] = ()
    if constants.HF_HUB_OFFLINE:
        if cached is None:
            raise ModelLoadError(
                f"{asked.origin} is not in the Hub's cache {constants.HF_HUB_CACHE} and "
                "HF_HUB_OFFLINE is set; unset it, or pass a local folder"
            )
        folder = cached
    else:
        usable = cached if cached and _is_complete(cached, asked) else None
        try:
            # With the files at hand an unreachable Hub is not worth waiting for.
            folder = _download(asked, token, progress, tries=1 if usable else _TRIES)
        except hub_errors.raised() as error:
            met = hub_errors.met(error)
            if usable is None or not hub_errors.is_unreachable(met):
                raise hub_errors.explained(met, asked.origin, asked.revision) from met
            folder = usable
            notes = (f"the Hub could not be reached; used its cache's copy, {folder.name}",)
    _check_folder(folder, asked)
    return replace(asked, name=_stem(asked.origin), folder=folder, commit=folder.name, notes=notes)


def _cached_snapshot(asked: ModelSource) -> Path | None:
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415 - 0.3 s of imports
    from huggingface_hub.errors import HFValidationError  # noqa: PLC0415

    try:
        config = try_to_load_from_cache(asked.origin, checkpoint.CONFIG, revision=asked.revision)
    except HFValidationError as error:
        raise ModelLoadError(
            f"no such folder, and not a Hub id either: {asked.origin!r}"
        ) from error
    return Path(config).parent if isinstance(config, str) else None


def _is_complete(folder: Path, asked: ModelSource) -> bool:
    try:
        _check_folder(folder, asked)
    except ModelLoadError:
        return False
    return True


def _download(
    asked: ModelSource, token: str | None, progress: Callable[[str], None], *, tries: int
) -> Path:
    """Fetches config first, then tokenizer and such, then weights of one format; the snapshot."""
    from huggingface_hub import HfApi, hf_hub_download  # noqa: PLC0415 - 0.3 s of imports
    from huggingface_hub.utils.tqdm import silent_tqdm  # noqa: PLC0415

    repo = asked.origin
    info = partial(HfApi(token=token).model_info, repo, timeout=_TIMEOUT)
    get = partial(hf_hub_download, repo, token=token, tqdm_class=silent_tqdm)

    def names_at(revision: str | None, tries: int) -> tuple[str | None, list[str]]:
        found = _retried(partial(info, revision=revision), tries)
        return found.sha, sorted(item.rfilename for item in found.siblings or ())

    def fetch(name: str, revision: str | None) -> Path:
        progress(name)
        return Path(_retried(partial(get, name, revision=revision), _TRIES))

    with _quiet_hub():
        commit, names = names_at(asked.revision, tries)
        if checkpoint.CONFIG not in names:
            raise ModelLoadError(checkpoint.missing_config(repo, names))
        # By the revision's own name, so that the cache knows offline what it stands for.
        folder = fetch(checkpoint.CONFIG, asked.revision).parent
        if folder.name != commit:  # the branch moved on in between
            _, names = names_at(folder.name, tries)
        entry = checkpoint.weights_entry(names, checkpoint.read_config(folder))
        if entry is None and not asked.random_weights:
            raise ModelLoadError(checkpoint.missing_weights(repo, names))
        for name in names:
            if "/" not in name and _is_wanted(name, asked):
                fetch(name, folder.name)
        if entry is not None and not asked.random_weights:
            fetch(entry, folder.name)
            for name in checkpoint.weight_files(folder, entry):
                fetch(name, folder.name)
    return folder


@contextlib.contextmanager
def _quiet_hub() -> Iterator[None]:
    from huggingface_hub.utils import logging as hub_logging  # noqa: PLC0415 - 0.3 s of imports

    before = hub_logging.get_verbosity()
    hub_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        hub_logging.set_verbosity(before)


def _retried(call: Callable[[], _Result], tries: int) -> _Result:
    """Calls until it works, at most `tries` times; only what may pass by itself is tried again."""
    import tenacity  # noqa: PLC0415 - only the Hub needs it here

    backoff = tenacity.wait_exponential(multiplier=_FIRST_WAIT, max=_LONGEST_WAIT)
    jitter = tenacity.wait_random(0, _FIRST_WAIT)

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        return max(hub_errors.asked_wait(error), backoff(state)) + jitter(state)

    return tenacity.Retrying(
        stop=tenacity.stop_after_attempt(tries),
        wait=wait,
        retry=tenacity.retry_if_exception(hub_errors.is_transient),
        reraise=True,
    )(call)


def _refuse_revision(asked: ModelSource, what: str) -> None:
    if asked.revision is not None:
        raise InvalidRequestError(f"revision is for Hub ids, not for {what}")


def _stem(text: str) -> str:
    last = re.split(r"[/\\]", text.rstrip("/\\"))[-1]
    return re.sub(r"[^\w.+-]", "_", last) or "model"
