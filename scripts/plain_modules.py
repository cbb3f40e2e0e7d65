"""The plain PyTorch modules of the zoo: name to what makes the module and its inputs.

Each is a shape of forward that users write or exporters trip over; some cannot be exported.
"""

from __future__ import annotations

from scripts import (
    plain_algebra,
    plain_attention,
    plain_control,
    plain_forms,
    plain_functional,
    plain_images,
    plain_indexing,
    plain_layers,
    plain_networks,
    plain_numbers,
    plain_recurrent,
)
from scripts.plain_inputs import Plain

THEMES = (
    plain_networks,
    plain_images,
    plain_recurrent,
    plain_attention,
    plain_layers,
    plain_control,
    plain_functional,
    plain_forms,
    plain_numbers,
    plain_algebra,
    plain_indexing,
)
PLAIN: dict[str, Plain] = {name: plain for theme in THEMES for name, plain in theme.MODULES.items()}
