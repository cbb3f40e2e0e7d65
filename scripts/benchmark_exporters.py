"""One export by one exporter, measured; the process is fresh and does nothing else.

    python -m scripts.benchmark_exporters ORDER.json RESULT.json

Importing, loading and exporting are measured apart. Everything that an export is known to
import is imported first, and nothing else is done before the clock starts: registries and
caches are built at the cost of the export, as they are for a user. Our own export includes
loading; the others start from a model in memory.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from scripts.benchmark_meter import Meter
from strategies.base import MODEL_FILE, VOID, Candidate, ExportRequest, first_line
from strategies.calling import NamedCall

Order = dict[str, Any]
Recipe = dict[str, Any]
# From a model and the order to facts about the file.
Exporter = Callable[[Any, Order, Recipe], dict[str, Any]]


def main() -> None:
    """Runs the order and writes what it cost; an exporter's error is a result like any other."""
    meter = Meter()
    order = json.loads(Path(sys.argv[1]).read_text())
    result: dict[str, Any] = {}
    try:
        _run(order, meter, result)
    except Exception as error:  # noqa: BLE001 - exporters fail in any way they like
        traceback.print_exc()
        result["error"] = first_line(error)
    Path(sys.argv[2]).write_text(json.dumps(result))


def _run(order: Order, meter: Meter, result: dict[str, Any]) -> None:
    known = Path(order["modules"])
    _import(json.loads(known.read_text()) if known.is_file() else [])
    export = EXPORTERS[order["side"]]
    checkpoint = Path(order["checkpoint"])
    cls = getattr(transformers, order["class"])
    result["import"] = meter.lap().as_dict()
    before = set(sys.modules)
    recipe: Recipe = torch.load(order["recipe"], weights_only=True)
    model = None
    meter.lap()
    if export is not autoexport:
        model = cls.from_pretrained(checkpoint, dtype=torch.float32).eval().requires_grad_(False)
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


def autoexport(_: Any, order: Order, recipe: Recipe) -> dict[str, Any]:
    """Ours, from the checkpoint's folder: void weights, dynamic axes, no verification."""
    from selector.source import load, resolve  # noqa: PLC0415 - only this side
    from strategies import registry  # noqa: PLC0415 - only this side

    clock = time.perf_counter()
    loaded = load(resolve(order["checkpoint"]), real=False)
    spent = time.perf_counter() - clock
    artifact = registry.resolve("usage_based")(
        ExportRequest(
            candidate=Candidate(strategy="usage_based", dynamic=True, weights=VOID),
            load_model=lambda: loaded.module,
            inputs=recipe["inputs"],
            dynamic_axes=recipe["axes"],
            constants=recipe["constants"],
            output_names=tuple(recipe["output_names"]),
            output_axes=recipe["output_axes"],
            directory=Path(order["out"]),
            weights=order["weights"],
            locate=loaded.weights.locate,
        )
    )
    return {"nodes": artifact.nodes, "stages": {**artifact.seconds, "load": spent}}


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
        Path(order["out"]) / MODEL_FILE,
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
