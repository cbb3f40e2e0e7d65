"""One export by one exporter, measured; the process is fresh and does nothing else.

    python -m scripts.benchmark_exporters ORDER.json RESULT.json
    python -m scripts.benchmark_exporters --serve MODULES.json

The second form imports first and then forks a process for each pair of files that a line of
its input names, so that many small exports need not import anew; it answers with a line each.

Importing, loading and exporting are measured apart. Everything that an export is known to
import is imported first, and nothing else is done before the clock starts: registries and
caches are built at the cost of the export, as they are for a user. Loading is transformers'
`from_pretrained` for the others, and mapping the checkpoint for us.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from scripts.benchmark_meter import Meter
from strategies.base import MODEL_FILE, VOID, Candidate, ExportRequest, first_line
from strategies.calling import NamedCall

if TYPE_CHECKING:
    from selector.source import LoadedModel

Order = dict[str, Any]
Recipe = dict[str, Any]
# From a model and the order to facts about the file.
Exporter = Callable[[Any, Order, Recipe], dict[str, Any]]


def main() -> None:
    """Runs one order, or serves many."""
    if sys.argv[1] == "--serve":
        serve(Path(sys.argv[2]))
    else:
        follow(Path(sys.argv[1]), Path(sys.argv[2]))


def serve(modules: Path) -> None:
    """Imports, and then does nothing but fork."""
    replies = os.fdopen(os.dup(1), "w")
    # Exporters print what they do.
    os.dup2(2, 1)
    _import(json.loads(modules.read_text()))
    gc.collect()
    for line in sys.stdin:
        order, answer = line.rstrip("\n").split("\t")
        child = os.fork()
        if child == 0:
            status = 1
            try:
                follow(Path(order), Path(answer))
                status = 0
            finally:
                sys.stderr.flush()
                os._exit(status)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), file=replies, flush=True)


def follow(file: Path, answer: Path) -> None:
    """Runs the order and writes what it cost; an exporter's error is a result like any other."""
    meter = Meter()
    order = json.loads(file.read_text())
    result: dict[str, Any] = {}
    try:
        _run(order, meter, result)
    except Exception as error:  # noqa: BLE001 - exporters fail in any way they like
        traceback.print_exc()
        result["error"] = first_line(error)
    answer.write_text(json.dumps(result))


def _run(order: Order, meter: Meter, result: dict[str, Any]) -> None:
    known = Path(order["modules"])
    _import(json.loads(known.read_text()) if known.is_file() else [])
    export = EXPORTERS[order["side"]]
    checkpoint = Path(order["checkpoint"])
    cls = getattr(transformers, order["class"])
    result["import"] = meter.lap().as_dict()
    before = set(sys.modules)
    recipe: Recipe = torch.load(order["recipe"], weights_only=True)
    meter.lap()
    model = _mapped(checkpoint) if export is autoexport else _read(cls, checkpoint)
    result["load"] = meter.lap().as_dict()
    facts = export(model, order, recipe)
    result["export"] = meter.lap().as_dict()
    result |= facts
    files = [item for item in Path(order["out"]).rglob("*") if item.is_file()]
    result["bytes"] = sum(item.stat().st_size for item in files)
    late = [name for name in sys.modules if name not in before]
    result["late_imports"] = len(late)
    known.write_text(json.dumps(_importable()))


def _import(names: list[str]) -> None:
    """Imports what an earlier run of this side on this model had imported at its end."""
    for name in names:
        # What cannot be imported by its name alone is imported by whoever needs it.
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def _importable() -> list[str]:
    return [
        name
        for name, module in list(sys.modules.items())
        if getattr(module, "__spec__", None) is not None
        and getattr(module, "__file__", None)
        and name != "__main__"
    ]


def _mapped(checkpoint: Path) -> LoadedModel:
    """Ours: the weights are not read."""
    from selector.source import load, resolve  # noqa: PLC0415 - only this side

    return load(resolve(checkpoint), real=False)


def _read(cls: Any, checkpoint: Path) -> Any:
    return cls.from_pretrained(checkpoint, dtype=torch.float32).eval().requires_grad_(False)


def autoexport(model: Any, order: Order, recipe: Recipe) -> dict[str, Any]:
    """Ours, from a mapped checkpoint: void weights, dynamic axes, no verification."""
    from strategies import registry  # noqa: PLC0415 - only this side

    artifact = registry.resolve("usage_based")(
        ExportRequest(
            candidate=Candidate(strategy="usage_based", dynamic=True, weights=VOID),
            load_model=lambda: model.module,
            inputs=recipe["inputs"],
            dynamic_axes=recipe["axes"],
            constants=recipe["constants"],
            output_names=tuple(recipe["output_names"]),
            output_axes=recipe["output_axes"],
            directory=Path(order["out"]),
            weights=order["weights"],
            locate=model.weights.locate,
        )
    )
    return {"nodes": artifact.nodes, "stages": dict(artifact.seconds)}


def dynamo(model: Any, order: Order, recipe: Recipe) -> dict[str, Any]:
    """The exporter that torch recommends, with the recipe's dynamic axes."""
    dynamic = torch.export.Dim.DYNAMIC
    shapes = {
        name: dict.fromkeys(recipe["axes"].get(name, {}), dynamic) for name in recipe["inputs"]
    }
    _torch_export(model, order, recipe, {**shapes, **dict.fromkeys(recipe["constants"])})
    return {}


def dynamo_static(model: Any, order: Order, recipe: Recipe) -> dict[str, Any]:
    """The same with the example's shapes."""
    _torch_export(model, order, recipe, None)
    return {}


def _torch_export(
    model: Any, order: Order, recipe: Recipe, dynamic_shapes: dict[str, Any] | None
) -> None:
    torch.onnx.export(
        model,
        (),
        Path(order["out"]) / MODEL_FILE,
        kwargs={**recipe["inputs"], **recipe["constants"]},
        dynamo=True,
        dynamic_shapes=dynamic_shapes,
        verbose=False,
    )


def torchscript(model: Any, order: Order, recipe: Recipe) -> dict[str, Any]:
    """The older exporter of torch, behind the wrapper that names its inputs and outputs."""
    axes = {**recipe["axes"], **recipe["output_axes"]}
    torch.onnx.export(
        NamedCall(model, tuple(recipe["inputs"]), recipe["constants"]).eval(),
        tuple(recipe["inputs"].values()),
        # Above 2 GB it takes a string only, and puts the weights beside the file.
        str(Path(order["out"]) / MODEL_FILE),
        dynamo=False,
        input_names=list(recipe["inputs"]),
        output_names=recipe["output_names"],
        dynamic_axes={name: names for name, names in axes.items() if names},
    )
    return {}


def transformers_dynamic(model: Any, order: Order, recipe: Recipe) -> dict[str, Any]:
    """The exporter of transformers; it decides itself which axes are dynamic."""
    return _transformers(model, order, recipe, dynamic=True)


def transformers_static(model: Any, order: Order, recipe: Recipe) -> dict[str, Any]:
    """The same with the example's shapes."""
    return _transformers(model, order, recipe, dynamic=False)


def _transformers(model: Any, order: Order, recipe: Recipe, *, dynamic: bool) -> dict[str, Any]:
    library: Any = importlib.import_module("transformers.exporters")  # loads its parts lazily
    inputs = {**recipe["inputs"], **recipe["constants"]}
    exported = library.OnnxExporter().export(
        model, inputs, config=library.OnnxConfig(dynamic=dynamic)
    )
    exported.save_pretrained(order["out"])
    return {}


EXPORTERS: dict[str, Exporter] = {
    "autoexport": autoexport,
    "autoexport-link": autoexport,
    "dynamo": dynamo,
    "dynamo-static": dynamo_static,
    "torchscript": torchscript,
    "transformers": transformers_dynamic,
    "transformers-static": transformers_static,
}


if __name__ == "__main__":
    main()
