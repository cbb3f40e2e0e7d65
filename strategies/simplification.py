"""Light clean-up of lowered graphs: dead code, small constants, identities; linear in size."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common as passes


def simplify(model: ir.Model) -> None:
    """Removes in place what lowering operator by operator leaves behind; tags stay."""
    if model.functions:
        passes.InlinePass()(model)
    passes.RemoveUnusedNodesPass()(model)
