"""Whose arithmetic is computed? `Arithmetic`: the runtime that will serve the model.

The same codes and scales are computed a little differently by torchao as it is, by torchao under
`torch.compile`, and by torchao with MSLK's quantizer. `sensitivity.formats.served` says how they
are emulated, `torchao_linear` how NVFP4 has them natively. Scores of different arithmetics are
never compared.

    served_otherwise(Arithmetic.MSLK)       # ("mslk",), for names of recipes
"""

from enum import StrEnum


class Arithmetic(StrEnum):
    """The runtimes whose arithmetic can be computed.

    `eager`: torchao's primitives as they are, and one rounding after the product (natively,
    torchao's own epilogue). `compiled`: torchao under `torch.compile`. `mslk`: torchao, eager, with
    MSLK's quantizer of activations and torchao's native epilogue (NVFP4).
    """

    EAGER = "eager"
    COMPILED = "compiled"
    MSLK = "mslk"


def served_otherwise(arithmetic: Arithmetic) -> tuple[str, ...]:
    """What a name says of an arithmetic: nothing of `eager`, which names had before there was a
    choice.
    """
    return () if arithmetic is Arithmetic.EAGER else (arithmetic.value,)
