"""What the analysis says about control flow, operators and architecture."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, ResNetConfig, SamConfig

from scripts import zoo
from scripts.plain_modules import PLAIN
from selector import lowerings
from selector.analysis import ModelFeatures, analyze_module, features_from_config
from selector.control_flow import Finding
from selector.eager import Eager, Weights
from selector.errors import AnalysisError
from selector.inputs import make_inputs


def features_of(
    module: nn.Module, inputs: dict[str, Tensor] | None = None, config: Any = None
) -> ModelFeatures:
    return analyze_module(module, config, make_inputs(module, config, given=inputs))


def tiny_features(name: str) -> ModelFeatures:
    module: Any = zoo.tiny_model(name)
    return features_of(module, config=module.config)


# With a run


@pytest.mark.parametrize("name", ["mlp", "cnn", "lstm", "branch", "loop", "dict_output", "shared"])
def test_plain_modules(name: str) -> None:
    module, inputs = PLAIN[name]()
    features = features_of(module, inputs)
    dependent = name in {"branch", "loop"}
    assert features.value_dependent is dependent
    assert features.operators
    assert features.unknown_to == {"torchscript": (), "torchlib": ()}
    if dependent:
        worst = features.findings[0]
        assert worst.kind == name
        assert worst.place.startswith(("plain_control.py:", "plain_recurrent.py:"))
        assert ("if bool" if name == "branch" else "for _ in range") in worst.source


class Chunks(nn.Module):
    """Takes a sequence in pieces of 64."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] <= 64:
            return x.cumsum(1)
        return torch.cat([piece.cumsum(1) for piece in torch.split(x, 64, dim=1)], dim=1)


@pytest.mark.parametrize("weights", [Weights.REAL, Weights.NEVER])
@pytest.mark.parametrize(
    ("module", "varying"), [(nn.Linear(11, 4), ()), (Chunks(), ("large sizes",))]
)
def test_a_forward_that_does_more_at_other_sizes_is_seen(
    module: nn.Module, varying: tuple[str, ...], weights: Weights
) -> None:
    eager = Eager(module.eval(), weights=weights)
    name = "input" if isinstance(module, nn.Linear) else "x"
    inputs = make_inputs(module, None, given={name: torch.randn(2, 11)}, eager=eager)
    assert analyze_module(module, None, inputs, eager=eager).varying == varying
    assert analyze_module(module, None, inputs).varying is None


@pytest.mark.parametrize(
    ("name", "dependent"),
    [("mlp", False), ("branch", False), ("converging", True), ("experts", True)],
)
def test_a_forward_that_reads_values_of_its_weights_is_seen(name: str, dependent: bool) -> None:
    assert features_of(*PLAIN[name]()).weight_dependent is dependent


QUICK = {
    "bert": "encoder",
    "gpt2": "decoder",
    "mixtral": "moe",
    "mamba": "state-space",
    "t5": "encoder-decoder",
    "wav2vec2": "audio",
    "resnet": "cnn",
    "detr": "detection",
    "clip": "multimodal",
    "sam": "vision-transformer",
    "longformer": "encoder",
    "encodec": "audio",
}
DEPENDENT = {"longformer"}


@pytest.mark.parametrize("name", QUICK)
def test_tiny_models(name: str) -> None:
    features = tiny_features(name)
    assert features.family == QUICK[name]
    assert features.value_dependent is (name in DEPENDENT)
    assert features.model_type == name
    assert sum(features.operators.values()) > 30
    assert features.parameters == sum(item.numel() for item in zoo.tiny_model(name).parameters())
    assert features.depth >= 2
    assert features.width >= 16
    assert ModelFeatures.from_json(features.to_json()) == features
    assert pickle.loads(pickle.dumps(features)) == features  # noqa: S301 - just made


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(zoo.TINY) - QUICK.keys()))
def test_other_tiny_models_do_not_depend_on_values(name: str) -> None:
    assert tiny_features(name).value_dependent is False


class UnusedBranch(nn.Module):
    def __init__(self, *, used: bool) -> None:
        super().__init__()
        self.used = used
        self.bound = nn.Buffer(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.used and x.sum() > 0:
            x = x + 1
        if bool(self.bound > 0):
            x = x * 2
        return x


@pytest.mark.parametrize("used", [True, False])
def test_only_branches_that_the_run_takes_count(*, used: bool) -> None:
    features = features_of(UnusedBranch(used=used).eval(), {"x": torch.ones(2, 3)})
    assert features.value_dependent is used


class Caching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.steps = nn.Buffer(torch.zeros(()))
        self.cache: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.linear(x)
        self.steps.add_(1)
        self.steps = nn.Buffer(self.steps + 1)
        result: Tensor = self.last
        return result


def test_the_module_is_left_as_it_was() -> None:
    module = Caching().eval()
    recipe = make_inputs(module, None, given={"x": torch.ones(2, 3)})
    attributes = dict(vars(module))
    before = {
        name: (id(item), item.clone()) for name, item in module.state_dict(keep_vars=True).items()
    }
    analyze_module(module, None, recipe)
    after = module.state_dict(keep_vars=True)
    assert vars(module) == attributes
    assert {name: id(item) for name, item in after.items()} == {
        name: number for name, (number, _) in before.items()
    }
    assert all(torch.equal(after[name], value) for name, (_, value) in before.items())


def test_the_config_is_left_as_it_was() -> None:
    module: Any = zoo.tiny_model("mixtral")
    attention, experts = module.config._attn_implementation, module.config._experts_implementation
    features_of(module, config=module.config)
    assert module.config._attn_implementation == attention
    assert module.config._experts_implementation == experts


def test_weights_need_not_be_in_memory() -> None:
    module: Any = zoo.tiny_model("bert")
    inputs = make_inputs(module, module.config)
    real = analyze_module(module, module.config, inputs)
    with torch.device("meta"):
        weightless = analyze_module(type(module)(module.config).eval(), module.config, inputs)
    assert weightless.operators == real.operators
    assert weightless.parameter_bytes == real.parameter_bytes


def test_a_branch_without_weights_is_taken_from_the_source() -> None:
    module, inputs = PLAIN["branch"]()
    recipe = make_inputs(module, None, given=inputs)
    features = analyze_module(module.to("meta"), None, recipe)
    assert features.value_dependent is True
    assert "stopped by" in features.notes[0]
    assert features.findings[0].kind == "branch"


class Failing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("not today")


def test_a_forward_that_fails_is_an_analysis_error() -> None:
    recipe = make_inputs(Caching(), None, given={"x": torch.ones(2, 3)})
    with pytest.raises(AnalysisError, match="RuntimeError: not today"):
        analyze_module(Failing(), None, recipe)


# Operators and lowerings


class Rare(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = torch.diff(x.nextafter(x).clip(-1, 1)).add_(1).mode().values
        return result


def test_unknown_operators_are_named_per_lowering() -> None:
    features = features_of(Rare(), {"x": torch.rand(2, 5)})
    assert features.unknown_to["torchscript"] == ("aten::mode", "aten::nextafter")
    assert features.unknown_to["torchlib"] == ("aten.mode.default",)


class Renamed(nn.Module):
    """Calls what the passes before TorchScript's lowering make other operators of."""

    def forward(self, x: Tensor) -> Tensor:
        filled = torch.zeros_like(x)
        filled[0].copy_(torch.special.logit(x[1].sigmoid()))
        return filled.cpu() + x.sigmoid().logit()


def test_operators_that_passes_replace_are_known() -> None:
    features = features_of(Renamed().eval(), {"x": torch.randn(2, 3)})
    assert features.unknown_to == {"torchscript": (), "torchlib": ()}


def test_ordinary_models_have_no_unknown_operators() -> None:
    for name in ("bert", "resnet"):
        assert tiny_features(name).unknown_to == {"torchscript": (), "torchlib": ()}


def test_registries_hold_what_every_model_needs() -> None:
    assert {"linear", "scaled_dot_product_attention", "conv2d"} <= lowerings.torchscript_symbolics()
    assert {"aten.addmm.default", "aten.convolution.default"} <= lowerings.torchlib_functions()


@pytest.mark.parametrize(
    "registry", [lowerings.torchscript_symbolics.__wrapped__, lowerings._listed_torchlib_functions]
)
def test_a_torch_without_the_registries_is_an_analysis_error(
    registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "torch.onnx._internal.torchscript_exporter.registration",
        "onnxscript._framework_apis.torch_2_9",
    ):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(AnalysisError, match=r"keeps them elsewhere.*constraints\.txt"):
        registry()


def test_an_old_torch_is_an_analysis_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lowerings, "OLDEST_TORCH", "99.0")
    with pytest.raises(AnalysisError, match=r"torch 99\.0 or newer is needed"):
        lowerings.torchscript_symbolics.__wrapped__()


# From the config alone, and as data


@pytest.mark.parametrize(
    ("config", "family", "parameters"),
    [
        (BertConfig(num_hidden_layers=2), "encoder", 38_603_520),
        (ResNetConfig(), "cnn", 23_508_032),
        (SamConfig(), "vision-transformer", 93_735_728),
    ],
    ids=["bert", "resnet-50", "sam-vit-base"],
)
def test_features_from_a_config(config: Any, family: str, parameters: int) -> None:
    features = features_from_config(config)
    assert features.family == family
    assert features.parameters == parameters
    assert features.value_dependent is False
    assert features.operators == {}
    assert "operators are not known" in features.notes[0]


def test_digests_tell_configs_apart_and_not_their_names() -> None:
    plain, renamed = BertConfig(), BertConfig(dtype="float16")
    renamed._name_or_path = "elsewhere"
    digests = [features_from_config(item).config_digest for item in (plain, renamed)]
    assert digests[0] == digests[1]
    assert digests[0] != features_from_config(BertConfig(num_hidden_layers=1)).config_digest


def test_features_that_are_none_are_refused() -> None:
    with pytest.raises(AnalysisError, match="unknown colour"):
        ModelFeatures.from_json({"architecture": "A", "colour": "red"})
    with pytest.raises(AnalysisError, match="not model features"):
        ModelFeatures.from_json({"architecture": "A"})


def test_a_place_is_short() -> None:
    finding = Finding(
        kind="branch", file="a/b/modeling_x.py", line=74, end_line=75, function="f", source=""
    )
    assert finding.place == "modeling_x.py:74"


def test_features_and_ranking_import_neither_torch_nor_scikit_learn() -> None:
    check = (
        "import sys, selector.features, selector.ranking\n"
        "print(*{'torch', 'sklearn', 'transformers', 'numpy'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("\n", "")
