"""Loads a `ModelSource` into memory, in the process that the export's steps are forked from."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import inspect
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from selector import checkpoint
from selector.errors import InvalidRequestError, ModelLoadError
from selector.source import LoadedModel, ModelSource
from selector.staging import load_staged
from selector.tasks import TASKS
from selector.weights import WeightStore, map_checkpoint
from strategies.base import first_line

_SEED = 0

# Read by forward only while training, so they say nothing about an exported model; checkpoints
# fine-tuned for a task come without.
_TRAINING_ONLY = ("masked_spec_embed",)


def load(source: ModelSource, *, real: bool = True) -> LoadedModel:
    """See `selector.source.load`."""
    with _quietly():
        loaded = _load_module(source) if source.kind == "module" else _load_checkpoint(source)
        # What is no parameter may be read by any capture.
        loaded.weights.fill(None if real else loaded.module.buffers())
    loaded.module.eval()
    loaded.module.requires_grad_(False)
    return loaded


def adopt(
    source: ModelSource, build: Callable[[], tuple[nn.Module, Any]]
) -> tuple[LoadedModel, Any]:
    """A module that is built here, and the inputs it comes with.

    Args:
        source: What to call it.
        build: Gives both.
    """
    with _quietly():
        module, given = build()
    module.eval()
    module.requires_grad_(False)
    return _of_module(module, source), given


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    _quiet_libraries()
    with warnings.catch_warnings(), _single_threaded():
        # transformers and the models' own code warn about what the user has no part in.
        warnings.simplefilter("ignore")
        yield


def _quiet_libraries() -> None:
    # A pool's threads would be missing in every process that is forked from this one.
    os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"
    os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"
    transformers.logging.set_verbosity(logging.ERROR)
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # theirs


@contextlib.contextmanager
def _single_threaded() -> Iterator[None]:
    """Keeps torch from starting worker threads, which a forked process would wait for."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _load_module(source: ModelSource) -> LoadedModel:
    if source.module_file is None:
        raise InvalidRequestError("the module has not been staged; call stage_module first")
    return _of_module(load_staged(source.module_file, source.import_path), source)


def _of_module(module: nn.Module, source: ModelSource) -> LoadedModel:
    config = getattr(module, "config", None)
    return LoadedModel(
        module=module,
        config=config if isinstance(config, PreTrainedConfig) else None,
        source=source,
        weights=WeightStore(),
    )


def _load_checkpoint(source: ModelSource) -> LoadedModel:
    notes = list(source.notes)
    weights = WeightStore()
    try:
        config = _read_config(source)
        if source.random_weights:
            module = _random(config, source)
            notes.append(f"weights are random (seed {_SEED}), so the outputs mean nothing")
        else:
            module, weights, found = _pretrained(config, source)
            notes.extend(found)
    except (InvalidRequestError, ModelLoadError, MemoryError):
        raise
    except Exception as error:
        # transformers raises anything at all, from KeyError to ImportError.
        raise ModelLoadError(f"{source.origin} cannot be loaded: {first_line(error)}") from error
    return LoadedModel(
        module=module, config=module.config, source=source, notes=tuple(notes), weights=weights
    )


def _read_config(source: ModelSource) -> Any:
    if source.folder is None:
        return CONFIG_MAPPING[_known_type(source.origin)]()
    raw = checkpoint.read_config(source.folder)
    remote = source.trust_remote_code and "AutoConfig" in (raw.get("auto_map") or {})
    if not remote:
        _require_known(raw.get("model_type"), source, has_code="auto_map" in raw)
    return AutoConfig.from_pretrained(
        source.folder,
        trust_remote_code=source.trust_remote_code,
        # Code of a checkpoint may lie in another repository.
        local_files_only=not source.trust_remote_code,
    )


def _known_type(name: str) -> str:
    if name in CONFIG_MAPPING:
        return name
    nearest = difflib.get_close_matches(name, list(CONFIG_MAPPING), n=1, cutoff=0.5)
    guess = f"; did you mean {nearest[0]!r}?" if nearest else ""
    raise ModelLoadError(
        f"unknown model type {name!r}{guess} (transformers {transformers.__version__}; "
        "a Hub id with random_weights needs its organisation, org/name)"
    )


def _require_known(model_type: object, source: ModelSource, *, has_code: bool) -> None:
    if isinstance(model_type, str) and model_type in CONFIG_MAPPING:
        return
    code = (
        "pass trust_remote_code=True (--trust-remote-code) if you trust the code it brings"
        if has_code
        else "upgrade transformers, or, where the model brings its own code, pass "
        "trust_remote_code=True (--trust-remote-code)"
    )
    raise ModelLoadError(
        f"{source.origin} is of type {model_type!r}, which transformers "
        f"{transformers.__version__} does not know; {code}"
    )


def _model_class(config: Any, source: ModelSource) -> tuple[Any, dict[str, Any]]:
    """The class to load, and the arguments that it takes beyond the config."""
    remote = getattr(config, "auto_map", None) or {}
    if source.trust_remote_code and any(name.startswith("AutoModel") for name in remote):
        return _remote_class(config, source, remote), {"trust_remote_code": True}
    if source.task is not None:
        return _task_class(config, source.task), {}
    names = config.architectures or ()
    if names:
        return _named_class(names[0]), {}
    return _any_class(config), {}


def _remote_class(config: Any, source: ModelSource, remote: dict[str, str]) -> Any:
    if source.task is not None:
        wanted = [auto for auto in TASKS[source.task] if auto in remote]
        if not wanted:
            raise InvalidRequestError(
                f"the code of {source.origin} has no class for the task {source.task!r}; "
                f"it has: {', '.join(name for name in remote if name.startswith('AutoModel'))}"
            )
    else:
        own = tuple(f".{name}" for name in config.architectures or ())
        autos = [name for name in remote if name.startswith("AutoModel")]
        wanted = [name for name in autos if str(remote[name]).endswith(own)] or autos
    return getattr(transformers, wanted[0])


def _named_class(name: str) -> Any:
    cls = getattr(transformers, name, None)
    if not (inspect.isclass(cls) and issubclass(cls, PreTrainedModel)):
        raise ModelLoadError(
            f"the config names the class {name!r}, which transformers "
            f"{transformers.__version__} does not have; pass a task, or, where the model brings "
            "its own code, trust_remote_code=True (--trust-remote-code)"
        )
    return cls


def _task_class(config: Any, task: str) -> Any:
    served = [cls for auto in TASKS[task] for cls in _mapped(auto, config)]
    if not served:
        tasks = [name for name, autos in TASKS.items() if any(_mapped(a, config) for a in autos)]
        raise InvalidRequestError(
            f"models of type {config.model_type!r} have no class for the task {task!r}; "
            f"they have one for: {', '.join(tasks) or 'none'}"
        )
    # The checkpoint's own class first, for its weights are all there.
    own = [cls for cls in served if cls.__name__ in (config.architectures or ())]
    return (own or served)[0]


def _any_class(config: Any) -> Any:
    """AutoModel's class; the first of any task where the type has none."""
    autos = ("AutoModel", *(auto for autos in TASKS.values() for auto in autos))
    found = next((cls for auto in autos for cls in _mapped(auto, config)), None)
    if found is None:
        raise ModelLoadError(
            f"transformers {transformers.__version__} has no model class for the type "
            f"{config.model_type!r}"
        )
    return found


def _mapped(auto: str, config: Any) -> tuple[Any, ...]:
    # An auto class's mapping is the only place that knows without building the model.
    mapping = getattr(transformers, auto)._model_mapping  # noqa: SLF001 - has no public name
    found = mapping.get(type(config), ())
    return found if isinstance(found, tuple) else (found,)


def _fitting_config(cls: Any, config: Any, source: ModelSource) -> Any:
    """The class's own part of a composite config, where it names just one tower of it."""
    wanted = getattr(cls, "config_class", None)
    if wanted is None or isinstance(config, wanted) or source.folder is None:
        return config
    return wanted.from_pretrained(source.folder, local_files_only=True)


def _random(config: Any, source: ModelSource) -> Any:
    cls, options = _model_class(config, source)
    torch.manual_seed(_SEED)
    if options:
        module = cls.from_config(config, **options)
    else:
        module = cls(_fitting_config(cls, config, source))
    # A config's own dtype reaches towers that build themselves from it.
    halves = (torch.float16, torch.bfloat16)
    if any(tensor.dtype in halves for tensor in (*module.parameters(), *module.buffers())):
        module.float()
    return module


def _pretrained(config: Any, source: ModelSource) -> tuple[Any, WeightStore, list[str]]:
    cls, options = _model_class(config, source)
    mapped = None
    if not options:
        config = _fitting_config(cls, config, source)
        mapped = _mapped_weights(config, source)
    options |= {
        "config": config,
        "dtype": torch.float32,
        "weights_only": True,
        "local_files_only": not source.trust_remote_code,
        "output_loading_info": True,
    }
    build = partial(_build, cls, source.folder, mapped)
    module, info = build(**options)
    notes = _dtype_notes(source)
    missing = _missing(info)
    if missing and all(_in_pooler(name) for name in missing) and _can_drop_pooler(module):
        module, info = build(add_pooling_layer=False, **options)
        notes.append("the checkpoint has no weights for the pooler, so the file has no pooler")
        missing = _missing(info)
    if missing:
        raise ModelLoadError(_unfit(module, missing, source))
    weights = mapped[1] if mapped else WeightStore()
    weights.keep([*module.parameters(), *module.buffers()])
    return module, weights, notes


def _mapped_weights(
    config: Any, source: ModelSource
) -> tuple[dict[str, torch.Tensor], WeightStore] | None:
    """The checkpoint's tensors where nothing but they makes up the weights.

    None without torch's way to watch operators: what is computed from tensors that wait for
    their values would be wrong.
    """
    try:
        importlib.import_module("selector.watching")
    except ImportError:
        return None
    folder = source.folder
    if folder is None or getattr(config, "quantization_config", None) is not None:
        return None
    names = {item.name for item in folder.iterdir()}
    if names & {"adapter_config.json", *getattr(type(config), "extra_files", ())}:
        return None
    entry = checkpoint.weights_entry(names, checkpoint.read_config(folder))
    if entry is None or ".safetensors" not in entry:
        return None
    return map_checkpoint(folder, entry)


def _build(
    cls: Any,
    folder: Path | None,
    mapped: tuple[dict[str, torch.Tensor], WeightStore] | None,
    **options: Any,
) -> tuple[Any, dict[str, Any]]:
    """The module with its weights, and what transformers reports of the loading."""
    if mapped is None:
        return cls.from_pretrained(folder, **options)  # type: ignore[no-any-return]  # theirs
    from selector.watching import Watch, WatchReads  # noqa: PLC0415 - `_mapped_weights` knows that it is there

    state, weights = mapped
    with Watch(weights), WatchReads(weights):
        module, info = cls.from_pretrained(None, state_dict=dict(state), **options)
    module.name_or_path = module.config.name_or_path = str(folder)
    return module, info


def _missing(info: dict[str, Any]) -> list[str]:
    return sorted(
        name for name in info["missing_keys"] if name.rpartition(".")[2] not in _TRAINING_ONLY
    )


def _in_pooler(name: str) -> bool:
    return "pooler" in name.split(".")


def _can_drop_pooler(module: nn.Module) -> bool:
    return "add_pooling_layer" in inspect.signature(type(module).__init__).parameters


def _unfit(module: nn.Module, missing: list[str], source: ModelSource) -> str:
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    advice = (
        "ask for the task that the checkpoint was trained for"
        if source.task
        else "pass task='feature-extraction' if the checkpoint has only the base model"
    )
    return (
        f"{source.origin} lacks weights that {type(module).__name__} needs: "
        f"{', '.join(missing[:3])}{more}; {advice}, or random_weights=True (--random-weights)"
    )


def _dtype_notes(source: ModelSource) -> list[str]:
    if source.folder is None:
        return []
    raw = checkpoint.read_config(source.folder)
    others = checkpoint.stored_dtypes(source.folder, raw) - {"float32"}
    if not others:
        return []
    return [f"weights are stored in {', '.join(sorted(others))} and are used as float32"]
