"""Which config files contradict each other?"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from sensitivity.models.model_index import config_folder
from sensitivity.spec.study_spec import StudySpec

WIDTHS = (
    "in_channels",
    "out_channels",
    "latent_channels",
    "z_dim",
    "joint_attention_dim",
    "cross_attention_dim",
    "caption_channels",
    "text_dim",
    "text_embed_dim",
    "pooled_projection_dim",
    "hidden_size",
    "projection_dim",
)
"""Keys of configs that say how wide the tensors are which one component gives to another."""


def contradiction(
    spec: StudySpec,
    modules: Mapping[str, nn.Module],
    called: Sequence[str],
    inside: bool,
    reason: str,
) -> str:
    """The message for shapes that do not fit: which component's config seems to contradict which.

    Args:
        spec: the study.
        modules: {name: component of the pipeline}.
        called: names of components that were called, by their latest calls; the last one failed, or
            gave what failed after it.
        inside: whether it failed inside of that component.
        reason: the error in brief; a component one of whose widths it mentions is suspected before
            others.
    """
    at, before = called[-1], list(called[:-1])
    coders = [name for name, part in modules.items() if hasattr(part, "decode")]
    makers = [*(before if inside else []), *(name for name in coders if name not in called)]
    others = (
        before[-1:] if at in coders else makers
    )  # a decoder is given what the component before it made
    numbers = {int(number) for number in re.findall(r"\d+", reason)}
    others = [name for name in others if numbers & set(_widths(modules[name]).values())] or others
    against = ([] if inside and others else ["itself"]) + [
        _described(name, modules[name]) for name in others
    ]
    return (
        f"the config of {_described(at, modules[at])} in {config_folder(spec)} seems to contradict"
        f" {' or '.join(against)}, or the settings {spec.settings} ({reason}); allowed are configs"
        " and settings of one model: copy the wrong config again, or report the pipeline if it"
        " runs with its weights"
    )


def _described(name: str, part: nn.Module) -> str:
    widths = ", ".join(f"{key} {width}" for key, width in _widths(part).items())
    return f"{name} ({widths})" if widths else name


def _widths(part: nn.Module) -> dict[str, int]:
    """The `WIDTHS` of a component's config, of its text part where it has several; a VAE's channels
    are those of pictures, nobody else's.
    """
    config: Any = getattr(part, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    keys = [
        key
        for key in WIDTHS
        if not (hasattr(part, "decode") and key in ("in_channels", "out_channels"))
    ]
    return {key: width for key in keys if isinstance(width := getattr(config, key, None), int)}
