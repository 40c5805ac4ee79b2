"""Which targets does a compressed-tensors config have, and what format does each group give them?

    groups_of({"config_groups": {"NVFP4": ["Linear"]}})     # [TargetGroup(["Linear"], nvfp4, True)]

A group has a preset's name, or the arguments of its weights and activations. Of both, nvfp4, mxfp8,
fp8, and int8 with one scale a row and one a token, are formats of this tool; of weights alone,
nvfp4, mxfp8, and fp8 and int8 with one scale a row. Any other group is in a format that this tool
does not have, named by its preset or by its numbers.

Source: compressed-tensors 0.20.1 (`quantization/quant_scheme.py`: `PRESET_SCHEMES`).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from sensitivity.consumers.other_formats import ListedFormat, OtherFormat, weight_only
from sensitivity.core.format_name import FormatName
from sensitivity.core.words import did_you_mean
from sensitivity.errors import PatternError

PRESETS: Mapping[str, tuple[FormatName, bool]] = {
    "UNQUANTIZED": (FormatName.BF16, True),
    "NVFP4": (FormatName.NVFP4, True),
    "MXFP8": (FormatName.MXFP8, True),
    "FP8_DYNAMIC": (FormatName.FP8, True),
    "FP8": (FormatName.FP8, False),
    "FP8_BLOCK": (FormatName.FP8, False),
    "INT8": (FormatName.INT8, True),
    "W8A8": (FormatName.INT8, True),
    "NVFP4A16": (FormatName.NVFP4_A16, True),
    "MXFP8A16": (FormatName.MXFP8_A16, True),
}
"""{preset: (our format, whether its scales are those of our format)}."""

OTHER_PRESETS = (
    *("W4AFP8", "MXFP4", "MXFP4XFP8", "MXFP6A8"),
    *(f"W{bits}A{a}" for bits in range(2, 8) for a in (4, 8) if bits < 5 or a == 8),
    *(f"W{bits}A16" for bits in range(2, 9)),
    *("W4A16_ASYM", "MXFP4A16", "MXFP6A16"),
)
"""Presets that are none of our formats; those with A16 are weight-only."""

WEIGHT_ONLY = {
    "nvfp4": FormatName.NVFP4_A16,
    "mxfp8": FormatName.MXFP8_A16,
    "fp8 channel False": FormatName.FP8_A16,
    "int8 channel False": FormatName.INT8_A16,
}
"""{kind of the weights: our weight-only format}."""


class TargetGroup(NamedTuple):
    """One group of a config.

    Attributes:
        targets: names, `re:` patterns and classes.
        format: what the Linears that they hit become.
        exact: whether the group's scales are those of our format.
    """

    targets: list[Any]
    format: ListedFormat
    exact: bool


def groups_of(config: Mapping[str, Any]) -> list[TargetGroup]:
    """The groups of a config, or of a modifier with `scheme` and `targets`.

    Raises:
        PatternError: a group is malformed, or names a preset that does not exist.
    """
    groups, scheme = config.get("config_groups"), config.get("scheme")
    if groups and scheme:
        raise PatternError(
            "found both config_groups and scheme; expected one of them; take one out"
        )
    if isinstance(scheme, str):
        return [_preset(scheme, config.get("targets", ["Linear"]))]
    if isinstance(scheme, Mapping):
        return [_preset(name, own) for name, own in scheme.items()]
    if not isinstance(groups, Mapping) or scheme:
        raise PatternError(
            f"found config_groups {str(groups or scheme)[:80]!r}; expected an object of groups with"
            " targets; write each group under a name"
        )
    return [_group(str(name), group) for name, group in groups.items()]


def _preset(name: Any, targets: Any) -> TargetGroup:
    key = name.upper() if isinstance(name, str) else ""
    own = _targets(name, [targets] if isinstance(targets, str) else targets)
    if key in PRESETS:
        return TargetGroup(own, *PRESETS[key])
    if key in OTHER_PRESETS:
        is_weights = "A16" in key
        return TargetGroup(own, weight_only(key) if is_weights else OtherFormat(key), True)
    known = (*PRESETS, *OTHER_PRESETS)
    hint = did_you_mean(key[:80], known, otherwise="write config_groups instead")
    raise PatternError(
        f"found the scheme {str(name)[:80]!r}; expected one of {', '.join(known)}; {hint}"
    )


def _targets(name: Any, targets: Any) -> list[Any]:
    if not isinstance(targets, list):
        raise PatternError(
            f"found the group {str(name)[:80]!r} with targets {str(targets)[:80]!r}; expected a"
            " list; write it in brackets"
        )
    return targets


def _group(name: str, group: Any) -> TargetGroup:
    if isinstance(group, list):
        return _preset(name, group)
    if not isinstance(group, Mapping):
        raise PatternError(
            f"found the group {name[:80]!r} with {str(group)[:80]!r}; expected an object with"
            " targets, weights and input_activations; write these"
        )
    targets = _targets(name, group.get("targets"))
    sides = {side: group.get(side) for side in _SIDES}
    for side, args in sides.items():
        if args and not isinstance(args, Mapping):
            raise PatternError(
                f"found the group {name[:80]!r} with {side} {str(args)[:80]!r}; expected an object"
                ' such as {"num_bits": 8, "type": "float"}, or null; correct it'
            )
    return TargetGroup(targets, *_format(*(args or None for args in sides.values())))


_SIDES = ("weights", "input_activations", "output_activations")


def _format(weights: Any, inputs: Any, outputs: Any) -> tuple[ListedFormat, bool]:
    """(format, whether its scales are ours) of a group's arguments; None where there are none."""
    if weights is None and inputs is None and outputs is None:
        return FormatName.BF16, True
    if outputs is None and weights is not None and inputs is not None:
        kinds = (_kind(weights), _kind(inputs))
        if kinds in (("nvfp4", "nvfp4"), ("mxfp8", "mxfp8")):
            return FormatName(str(kinds[0])), True
        if all(kind and kind.startswith("fp8") for kind in kinds):
            return FormatName.FP8, kinds == ("fp8 channel False", "fp8 token True")
        if kinds == ("int8 channel False", "int8 token True"):
            return FormatName.INT8, True
    if inputs is None and outputs is None:
        ours = WEIGHT_ONLY.get(_kind(weights) or "")
        return ours or weight_only(_words(weights)), True
    words = [
        f"{_words(args)} {side}"
        for side, args in (("weights", weights), ("activations", inputs), ("outputs", outputs))
        if args is not None
    ]
    return OtherFormat(", ".join(words)), True


def _words(args: Mapping[str, Any]) -> str:
    """The numbers of quantization arguments in words: "int4 in groups of 128"."""
    kind = _kind(args)
    if kind and not kind.startswith("int8"):
        return kind.removesuffix(" True").removesuffix(" False")
    size, bits = args.get("group_size"), args.get("num_bits", 8)
    groups = f" in groups of {size}" if isinstance(size, int) and size > 0 else ""
    return f"{args.get('type') or 'int'}{bits}{groups}"[:60]


def _kind(args: Any) -> str | None:
    """The format that quantization arguments stand for: "nvfp4", "mxfp8", or for fp8 and symmetric
    int8 also the strategy and whether scales are computed at run time ("fp8 token True"). None:
    none of ours.
    """
    if not isinstance(args, Mapping):
        return None
    is_float = str(args.get("type", "int")).lower() == "float"
    bits, size = args.get("num_bits", 8), args.get("group_size")
    if is_float and bits == 4:
        return "nvfp4" if size == 16 else None
    if bits != 8 or not (is_float or args.get("symmetric", True)):
        return None
    if is_float and size == 32 and "uint8" in str(args.get("scale_dtype")):
        return "mxfp8"
    implied = "tensor" if size is None else "channel" if size == -1 else "group"
    strategy = args.get("strategy") or implied
    return f"{'fp8' if is_float else 'int8'} {strategy} {bool(args.get('dynamic'))}"
