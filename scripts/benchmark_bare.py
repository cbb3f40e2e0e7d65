"""The bare script that the command line is held against: load, run once, run once in ONNX Runtime.

python -m scripts.benchmark_bare CHECKPOINT CLASS RECIPE FILE
"""

from __future__ import annotations

import sys

import onnxruntime
import torch
import transformers

if __name__ == "__main__":
    checkpoint, name, recipe_file, file = sys.argv[1:5]
    model = getattr(transformers, name).from_pretrained(checkpoint, dtype=torch.float32).eval()
    recipe = torch.load(recipe_file, weights_only=True)
    with torch.no_grad():
        model(**recipe["inputs"], **recipe["constants"])
    session = onnxruntime.InferenceSession(file)
    session.run(None, {key: value.numpy() for key, value in recipe["inputs"].items()})
