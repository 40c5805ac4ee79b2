"""Which targets does a compressed-tensors config have, and what format does each group give them?

    groups_of({"config_groups": {"NVFP4": ["Linear"]}})     # [TargetGroup(["Linear"], nvfp4, True)]

A group has a preset's name, or the arguments of its weights and activations. Of both, those are
read that stand for nvfp4, mxfp8 or fp8; any other group is refused.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from sensitivity.core.format_name import FormatName
from sensitivity.errors import PatternError

PRESETS: Mapping[str, tuple[FormatName, bool]] = {
    "UNQUANTIZED": (FormatName.BF16, True),
    "NVFP4": (FormatName.NVFP4, True),
    "MXFP8": (FormatName.MXFP8, True),
    "FP8_DYNAMIC": (FormatName.FP8, True),
    "FP8": (FormatName.FP8, False),
    "FP8_BLOCK": (FormatName.FP8, False),
}
"""{preset: (our format, whether its scales are those of our format)}."""


class TargetGroup(NamedTuple):
    """One group of a config.

    Attributes:
        targets: names, `re:` patterns and classes.
        format: what the Linears that they hit become.
        exact: whether the group's scales are those of our format.
    """

    targets: list[Any]
    format: FormatName
    exact: bool


def groups_of(config: Mapping[str, Any]) -> list[TargetGroup]:
    """The groups of a config, or of a modifier with `scheme` and `targets`.

    Raises:
        PatternError: a group is malformed, or quantizes to none of our formats.
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
    known = PRESETS.get(name.upper()) if isinstance(name, str) else None
    if known is None:
        raise PatternError(
            f"found the scheme {str(name)[:80]!r}; expected one of {', '.join(PRESETS)}, since this"
            " tool has no other formats; read the list without this group"
        )
    return TargetGroup(_targets(name, [targets] if isinstance(targets, str) else targets), *known)


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
    weights, inputs = group.get("weights"), group.get("input_activations")
    outputs = group.get("output_activations")
    if not weights and not inputs and not outputs:
        return TargetGroup(targets, FormatName.BF16, True)
    kinds = (_kind(weights), _kind(inputs))
    if outputs or None in kinds:
        raise PatternError(
            f"found the group {name[:80]!r} with weights {str(weights)[:80]}, input_activations"
            f" {str(inputs)[:80]}; expected one of NVFP4, MXFP8 and FP8 for both, and nothing for"
            " outputs; read the list without this group"
        )
    if kinds in (("nvfp4", "nvfp4"), ("mxfp8", "mxfp8")):
        return TargetGroup(targets, FormatName(kinds[0]), True)
    if all(kind and kind.startswith("fp8") for kind in kinds):
        is_ours = kinds == ("fp8 channel False", "fp8 token True")
        return TargetGroup(targets, FormatName.FP8, is_ours)
    raise PatternError(
        f"found the group {name[:80]!r} with {kinds[0]} weights and {kinds[1]} activations;"
        " expected one format for both; correct it"
    )


def _kind(args: Any) -> str | None:
    """The format that quantization arguments stand for: "nvfp4", "mxfp8", or for fp8 also the
    strategy and whether scales are computed at run time ("fp8 token True"). None: none of ours.
    """
    if not isinstance(args, Mapping) or str(args.get("type", "int")).lower() != "float":
        return None
    bits, size = args.get("num_bits", 8), args.get("group_size")
    if bits == 4:
        return "nvfp4" if size == 16 else None
    if bits != 8:
        return None
    if size == 32 and "uint8" in str(args.get("scale_dtype")):
        return "mxfp8"
    implied = "tensor" if size is None else "channel" if size == -1 else "group"
    return f"fp8 {args.get('strategy') or implied} {bool(args.get('dynamic'))}"
