"""Which format do the attributes of a ModelOpt quantizer (`cfg`) give a tensor?

numerics_of("*weight_quantizer", {"num_bits": (4, 3), "axis": 0})     # fp8, row-wise
numerics_of("*weight_quantizer", {"num_bits": 8, "axis": 0})          # int8
numerics_of("*weight_quantizer", {"num_bits": 8, "axis": None})       # "per-tensor int8"

Attributes of any other kind are in a format that this tool does not have, named by their bits. So
are those with `rotate`: ModelOpt rotates by Sylvester's Hadamard matrix over the whole of K, or a
block size of one's own, this tool by ConvRot's.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from sensitivity.consumers.other_formats import ListedFormat, OtherFormat
from sensitivity.core.format_name import FormatName
from sensitivity.errors import PatternError


class Numerics(NamedTuple):
    """The format of a tensor.

    `rowwise` is whether an fp8 tensor has the scales that our fp8 has: one a row of the weight, or
    one a token, computed at run time.
    """

    format: ListedFormat
    rowwise: bool = True


def numerics_of(name: str, cfg: Any) -> Numerics:
    """The format that the attributes of a quantizer give.

    Args:
        name: the quantizer's name or pattern, for the message.
        cfg: its attributes.

    Raises:
        PatternError: they are no attributes of a quantizer.
    """
    if isinstance(cfg, list) and cfg:  # quantized in steps, one format after the other
        steps = [numerics_of(name, step).format for step in cfg[:4]]
        return Numerics(OtherFormat(" in ".join(steps)))
    blocks = cfg.get("block_sizes") or {} if isinstance(cfg, Mapping) else None
    if isinstance(cfg, Mapping) and isinstance(blocks, Mapping):
        bits = _bits(cfg.get("num_bits"))
        block_size = blocks.get(-1, blocks.get("-1"))
        scale_bits = _bits(blocks.get("scale_bits"))
        has_block = -1 in blocks or "-1" in blocks
        a_token = cfg.get("type") == "dynamic" and has_block and block_size is None
        a_row = not blocks and cfg.get("axis") == 0
        if _rotates(cfg.get("rotate")):
            plain = numerics_of(name, {key: cfg[key] for key in cfg if key != "rotate"})
            return Numerics(OtherFormat(f"{plain.format}, rotated (modelopt)"))
        if (bits, block_size, scale_bits) == ((2, 1), 16, (4, 3)):
            chosen = blocks.get("four_over_six") and blocks.get("type") == "static"
            return Numerics(FormatName.NVFP4_4O6 if chosen else FormatName.NVFP4)
        if (bits, block_size, scale_bits) == ((4, 3), 32, (8, 0)):
            return Numerics(FormatName.MXFP8)
        if bits == (4, 3) and scale_bits is None:
            return Numerics(FormatName.FP8, rowwise=a_token or a_row)
        if bits in (8, None) and scale_bits is None and (a_row or a_token):
            return Numerics(FormatName.INT8)
        if (words := _words(bits)) is not None:
            size = f" in blocks of {block_size}" if isinstance(block_size, int) else ""
            a_tensor = "per-tensor " if words == FormatName.INT8 and not size else ""
            return Numerics(OtherFormat(f"{a_tensor}{words}{size}"))
    raise PatternError(
        f"found {name[:80]!r} with the cfg {str(cfg)[:120]}; expected attributes of a quantizer,"
        " such as NVFP4 (num_bits (2, 1), blocks of 16 with scale_bits (4, 3)), MXFP8 ((4, 3),"
        " blocks of 32 with scale_bits (8, 0)) or FP8 ((4, 3)); take the entry out, or turn it off"
    )


def _rotates(rotate: Any) -> bool:
    """Whether the attribute `rotate` is on: True, or an object with `enable`."""
    return bool(rotate.get("enable") if isinstance(rotate, Mapping) else rotate)


def _words(bits: Any) -> str | None:
    """num_bits in words: int8, e2m1; None if it is no number of bits. ModelOpt's default is 8."""
    if bits is None:
        return "int8"
    if isinstance(bits, int) and not isinstance(bits, bool) and 0 < bits <= 32:
        return f"int{bits}"
    if isinstance(bits, tuple) and len(bits) == 2 and all(isinstance(part, int) for part in bits):
        return "e{}m{}".format(*bits) if all(0 <= part <= 16 for part in bits) else None
    return None


def _bits(value: Any) -> Any:
    """num_bits in any of ModelOpt's spellings: (4, 3), [4, 3] or "e4m3"."""
    if (
        isinstance(value, str)
        and len(value) == 4
        and value[0] == "e"
        and value[2] == "m"
        and value[1::2].isdigit()
    ):
        return int(value[1]), int(value[3])
    return tuple(value) if isinstance(value, list) else value
