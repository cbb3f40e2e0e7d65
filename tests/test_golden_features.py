"""Features of twelve models, held against those that were computed before, on another machine.

python -m tests.test_golden_features writes them anew, for when the analysis sees more.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scripts import zoo
from scripts.plain_modules import PLAIN
from selector.analysis import analyze_module
from selector.eager import Eager, Weights
from selector.inputs import make_inputs

GOLDEN = Path(__file__).with_name("golden_features.json")
TINY = ("bert", "gpt2", "t5", "mixtral", "mamba", "vit", "resnet", "wav2vec2", "clip")
MODULES = ("mlp", "branch", "converging")
NAMES = (*(f"tiny:{name}" for name in TINY), *(f"plain:{name}" for name in MODULES))


def features_of(name: str, weights: Weights) -> dict[str, Any]:
    sort, _, rest = name.partition(":")
    module, inputs = (zoo.tiny_model(rest), None) if sort == "tiny" else PLAIN[rest]()
    config: Any = getattr(module, "config", None)
    eager = Eager(module, weights=weights)
    recipe = make_inputs(module, config, given=inputs, eager=eager)
    return analyze_module(module, config, recipe, eager=eager).to_json()


@pytest.mark.parametrize("weights", [Weights.FIRST, Weights.NEVER])
@pytest.mark.parametrize("name", NAMES)
def test_features_are_the_same_on_every_run_and_machine(name: str, weights: Weights) -> None:
    assert features_of(name, weights) == json.loads(GOLDEN.read_text(encoding="utf-8"))[name]


if __name__ == "__main__":
    found = {name: features_of(name, Weights.FIRST) for name in NAMES}
    GOLDEN.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
