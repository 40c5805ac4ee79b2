"""What the definition of each format says, written by hand: `CONTRACTS`, for `test_formats`."""

from dataclasses import dataclass, replace

import torch

NOWHERE = "nowhere"


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What the definition of a format says.

    Attributes:
        k_multiple, n_multiple: what torchao's native rules need.
        block: values along K that share a scale, or are rotated together at least; K must be a
            multiple of it to emulate.
        native: the lowest compute capability that runs it natively, "" for any device, NOWHERE.
        scale_shape: of the outer scale of a weight with 5 rows; None where there is none.
        codes: the dtype of a weight's values on the CPU.
        bytes: of a weight with K = N = 3072.
        config: the class of torchao's config; "" where there is none, and `no_config` says why.
        no_config: words of the error where there is none.
        weight_of, activation_of: the format that quantizes a weight or an activation to the same
            numbers; "" for itself.
        alike: whether weights and activations are quantized alike.
    """

    k_multiple: int
    n_multiple: int
    block: int
    native: str
    scale_shape: tuple[int, ...] | None
    codes: torch.dtype
    bytes: int
    config: str = ""
    no_config: str = ""
    weight_of: str = ""
    activation_of: str = ""
    alike: bool = True


SIDE = 3072
MXFP8 = Contract(
    k_multiple=32,
    n_multiple=16,
    block=32,
    native="10.0",
    scale_shape=None,
    codes=torch.bfloat16,
    bytes=SIDE * SIDE + SIDE * SIDE // 32,
    config="MXDynamicActivationMXWeightConfig",
)
NVFP4 = Contract(
    k_multiple=32,
    n_multiple=16,
    block=16,
    native="10.0",
    scale_shape=(),
    codes=torch.bfloat16,
    bytes=SIDE * SIDE // 2 + SIDE * SIDE // 16 + 4,
    config="NVFP4DynamicActivationNVFP4WeightConfig",
)
FP8 = Contract(
    k_multiple=16,
    n_multiple=16,
    block=1,
    native="8.9",
    scale_shape=(5, 1),
    codes=torch.float32,  # which the CPU's product of FP8 takes
    bytes=SIDE * SIDE + 4 * SIDE,
    config="Float8DynamicActivationFloat8WeightConfig",
)
INT8 = Contract(
    k_multiple=8,
    n_multiple=8,
    block=1,
    native="8.0",
    scale_shape=(5, 1),
    codes=torch.int8,
    bytes=SIDE * SIDE + 5 * SIDE,
    config="Int8DynamicActivationInt8WeightConfig",
)


def weight_only(plain: Contract, name: str, config: str) -> Contract:
    """The contract of the format that quantizes the weight alone; torchao dequantizes anywhere."""
    return replace(
        plain, native="", config=config, weight_of=name, activation_of="bf16", alike=False
    )


CONTRACTS = {
    "bf16": Contract(
        k_multiple=1,
        n_multiple=1,
        block=1,
        native="",
        scale_shape=None,
        codes=torch.bfloat16,
        bytes=2 * SIDE * SIDE,
        no_config="leave it out, or choose mxfp8, nvfp4 or fp8",
    ),
    "mxfp8": MXFP8,
    "nvfp4": NVFP4,
    "fp8": FP8,
    "int8": INT8,
    "nvfp4-4o6": replace(
        NVFP4,
        config="",
        no_config="chooses no block scales by their error; expected nvfp4",
        activation_of="nvfp4",
        alike=False,  # four over six is for weights
    ),
    "int8-rot": replace(
        INT8,
        k_multiple=16,  # the least rotation
        block=16,
        config="",
        no_config="does not rotate activations at run time; expected int8",
    ),
    "fp8-lb": replace(FP8, weight_of="fp8"),
    "nvfp4-a16": weight_only(NVFP4, "nvfp4", "NVFP4WeightOnlyConfig"),
    "mxfp8-a16": replace(
        weight_only(MXFP8, "mxfp8", ""),
        native=NOWHERE,
        no_config="torchao 0.18 has no weight-only mxfp8: emulate it instead",
    ),
    "fp8-a16": weight_only(FP8, "fp8", "Float8WeightOnlyConfig"),
    "int8-a16": weight_only(INT8, "int8", "Int8WeightOnlyConfig"),
}


def of_activation(name: str) -> Contract:
    """What the format says of its activations: the contract of those that are quantized alike."""
    return CONTRACTS[CONTRACTS[name].activation_of or name]
