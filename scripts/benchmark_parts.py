"""What verifying has to cost at least, and what analysing costs when all of it is done.

    python -m scripts.benchmark_parts ORDER.json RESULT.json

Loads the model; reads its source and config, and records its forward; then for every case of
the recipe runs it once, opens an ONNX Runtime session on the exported file and runs that once,
each measured apart.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import onnxruntime
import torch
import transformers

from scripts.benchmark_meter import Meter
from selector import architecture, lowerings, operators
from selector.control_flow import analyze_control_flow
from strategies.base import MODEL_FILE


def main() -> None:
    """Runs the order and writes the cost of every piece."""
    meter = Meter()
    order = json.loads(Path(sys.argv[1]).read_text())
    cls = getattr(transformers, order["class"])
    result: dict[str, Any] = {"import": meter.lap().as_dict(), "shapes": []}
    model = cls.from_pretrained(order["checkpoint"], dtype=torch.float32).eval()
    recipe = torch.load(order["recipe"], weights_only=True)
    result["load"] = meter.lap().as_dict()
    _, tensors = recipe["cases"][0]
    analyze_control_flow(model, tensors.keys())
    architecture.describe(model, model.config, tensors.keys())
    result["read"] = meter.lap().as_dict()
    recording = operators.record_forward(model, {**tensors, **recipe["constants"]})
    lowerings.unknown_operators(recording)
    result["recorded"] = meter.lap().as_dict()
    for sizes, tensors in recipe["cases"]:
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        meter.lap()
        with torch.no_grad():
            model(**tensors, **recipe["constants"])
        eager = meter.lap()
        session = onnxruntime.InferenceSession(Path(order["out"]) / MODEL_FILE)
        opened = meter.lap()
        session.run(None, arrays)
        ran = meter.lap()
        del session
        result["shapes"].append(
            {
                "sizes": sizes,
                "eager": eager.as_dict(),
                "session": opened.as_dict(),
                "run": ran.as_dict(),
            }
        )
    Path(sys.argv[2]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
