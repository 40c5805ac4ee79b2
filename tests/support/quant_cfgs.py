"""Lists in ModelOpt's `quant_cfg`, and what ModelOpt made of them.

ModelOpt is large and slow to import, so most tests do without it. Those marked `real_modelopt` run
where it is installed: `uv run --group consumers pytest tests/consumers -k modelopt`. They were run
with 0.47.0 beside torch 2.15 and diffusers 0.42.1. The others compare with `RECORDED`: what its
`set_quantizer_by_cfg` made of `LISTS` on the net of `with_convolution`.
"""

import importlib.util
from typing import Any

import pytest
from torch import nn

from sensitivity.consumers.lists import ModelTree
from sensitivity.consumers.readers import get_reader
from sensitivity.core.format_name import FormatName

from support.namesakes import NamesakeNet, linears

real_modelopt = pytest.mark.skipif(
    importlib.util.find_spec("modelopt") is None, reason="nvidia-modelopt is not installed"
)


NVFP4 = {"num_bits": (2, 1), "block_sizes": {-1: 16, "type": "dynamic", "scale_bits": (4, 3)}}


MXFP8 = {"num_bits": (4, 3), "block_sizes": {-1: 32, "type": "dynamic", "scale_bits": (8, 0)}}


TENSOR = {"num_bits": (4, 3), "axis": None}


ROW, TOKEN = (
    {"num_bits": (4, 3), "axis": 0},
    {
        "num_bits": (4, 3),
        "type": "dynamic",
        "block_sizes": {-1: None},
    },
)


SIX = {
    "num_bits": (2, 1),
    "block_sizes": {-1: 16, "type": "static", "scale_bits": (4, 3), "four_over_six": True},
}


INT8_TOKEN = {"num_bits": 8, "type": "dynamic", "block_sizes": {-1: None}}


OFF = {"quantizer_name": "*", "enable": False}


def both(
    pattern: str, weight: dict[str, Any], inputs: dict[str, Any] | None = None, **more: Any
) -> list[dict[str, Any]]:
    """Entries for the weight and the input of what a pattern names."""
    return [
        {"quantizer_name": f"{pattern}weight_quantizer", "cfg": weight, **more},
        {"quantizer_name": f"{pattern}input_quantizer", "cfg": inputs or weight, **more},
    ]


def with_convolution() -> NamesakeNet:
    """Namesakes and a convolution, which has quantizers as well."""
    return NamesakeNet(conv=nn.Conv2d(16, 16, 1))


FQNS = tuple(linears(with_convolution()))


LISTS: dict[str, list[dict[str, Any]]] = {
    "the default preset, which turns proj_out off": [
        OFF,
        *both("*", NVFP4),
        {"quantizer_name": "*proj_out.*", "enable": False},
    ],
    "a full name": [OFF, *both("*", NVFP4), {"quantizer_name": "proj_out.*", "enable": False}],
    "a name without its quantizer": [
        OFF,
        *both("*", NVFP4),
        {"quantizer_name": "proj_out", "enable": False},
    ],
    "anchored at its start": [OFF, *both("blocks.1.*", MXFP8)],
    "open at its start": [OFF, *both("*blocks.1*", MXFP8)],
    "the last one decides": [
        OFF,
        *both("*", ROW, TOKEN),
        *both("*to_q.", NVFP4),
        {"quantizer_name": "blocks.1.*", "enable": False},
    ],
    "on again, as it was": [
        OFF,
        *both("*", NVFP4),
        {"quantizer_name": "*", "enable": False},
        {"quantizer_name": "blocks.[!1]*.to_q.[wi]*", "enable": True},
    ],
    "of another class": [
        OFF,
        *both("*", NVFP4, parent_class="nn.Linear"),
        {"quantizer_name": "*", "parent_class": "nn.Conv2d", "enable": False},
    ],
}
"""Lists in which matching goes wrong easily."""


def named(*chosen: str) -> list[str]:
    return [fqn for fqn in FQNS if any(fqn == name or fqn.startswith(name) for name in chosen)]


TO_Q = [fqn for fqn in FQNS if fqn.endswith("to_q")]


RECORDED: dict[str, dict[str, str]] = {
    "the default preset, which turns proj_out off": dict.fromkeys(TO_Q, "nvfp4"),
    "a full name": dict.fromkeys([fqn for fqn in FQNS if fqn != "proj_out"], "nvfp4"),
    "a name without its quantizer": dict.fromkeys(FQNS, "nvfp4"),
    "anchored at its start": dict.fromkeys(["blocks.1.to_q", "blocks.1.proj_out"], "mxfp8"),
    "open at its start": dict.fromkeys(named("blocks.1", "single_blocks.1"), "mxfp8"),
    "the last one decides": {
        fqn: "nvfp4" if fqn in TO_Q else "fp8"
        for fqn in FQNS
        if fqn not in ("blocks.1.to_q", "blocks.1.proj_out")
    },
    "on again, as it was": dict.fromkeys([f"blocks.{n}.to_q" for n in (0, *range(2, 10))], "nvfp4"),
    "of another class": dict.fromkeys(FQNS, "nvfp4"),
}
"""{list: {Linear: format}} of those that are quantized, by ModelOpt 0.47.0."""


def read(
    value: Any, fqns: tuple[str, ...] = FQNS, quantized: FormatName = FormatName.MXFP8
) -> dict[str, str]:
    """{Linear: format} of those that our reader says are quantized."""
    text = value if isinstance(value, str) else repr(value)
    found = get_reader("modelopt").read(text).assign(ModelTree(fqns=fqns), quantized=quantized)
    return {fqn: str(name) for fqn, name in found.items() if name is not FormatName.BF16}
