"""What do ModelOpt's YAML files mean, where they import pieces of its recipe library?

    imports:
      base_disable_all: configs/ptq/units/base_disable_all
      nvfp4: configs/numerics/nvfp4
    quantize:
      quant_cfg:
        - $import: base_disable_all
        - quantizer_name: '*weight_quantizer'
          cfg: {$import: nvfp4}

    quant_cfg = resolved(parse_yaml(text))["quant_cfg"]

`imports` gives pieces a name. `$import` in an object puts a piece's keys there, under the object's
own keys; as an item of a list it puts the piece's entries there. A list with imports is a file of
two documents, imports first.

`NUMERICS` and `UNITS` say what the pieces of the library mean for Linears. Pieces about keys and
values of attention (`kv_*`) say nothing about them. A piece of one's own is not opened, since a
list is one text; it is refused by name.

Source: ModelOpt's `modelopt_recipes/configs` at a2fbac7b and `torch/opt/config_loader.py`, read.
"""

from collections.abc import Mapping
from typing import Any

from sensitivity.core.words import did_you_mean
from sensitivity.errors import PatternError

IMPORT = "$import"


def _blocks(
    bits: str, size: int, scale_bits: str, kind: str = "dynamic", **more: bool
) -> dict[str, Any]:
    sizes: dict[Any, Any] = {-1: size, "type": kind, "scale_bits": scale_bits, **more}
    return {"num_bits": bits, "block_sizes": sizes}


NUMERICS: Mapping[str, dict[str, Any]] = {
    "fp8": {"num_bits": "e4m3", "axis": None},
    "int4_per_block": {"num_bits": 4, "block_sizes": {-1: 128, "type": "static"}},
    "int8": {"num_bits": 8, "axis": None},
    "int8_per_channel": {"num_bits": 8, "axis": 0},
    "mxfp4": _blocks("e2m1", 32, "e8m0"),
    "mxfp6": _blocks("e3m2", 32, "e8m0"),
    "mxfp8": _blocks("e4m3", 32, "e8m0"),
    "mxint8": {"num_bits": 8, "block_sizes": {-1: 32, "type": "dynamic", "scale_bits": "e8m0"}},
    "nvfp4": _blocks("e2m1", 16, "e4m3"),
    "nvfp4_bs32": _blocks("e2m1", 32, "e4m3"),
    "nvfp4_four_over_six": _blocks("e2m1", 16, "e4m3", "static", four_over_six=True),
    "nvfp4_static": _blocks("e2m1", 16, "e4m3", "static"),
}
"""{file of configs/numerics: the attributes of a quantizer}."""

_OFF = (
    "*block_sparse_moe.gate* *linear_attn.conv1d* *linear_attn.in_proj_a* *linear_attn.in_proj_b*"
    " *lm_head* *mixer.conv1d* *mlp.gate.* *mlp.shared_expert_gate.* *output_layer* *proj_out.*"
    " *router* mtp.* output.* *embed_vision* *vision_tower* *visual* *vision_model*"
    " *multi_modal_projector*"
)
_OFF_MAMBA = (
    "*fc1_latent_proj* *fc2_latent_proj* *q_proj* *k_proj* *v_proj* *o_proj*"
    " *self_attention.linear_qkv* *self_attention.linear_proj*"
)


def _on(cfg: str, *patterns: str) -> list[dict[str, Any]]:
    return [{"quantizer_name": pattern, "cfg": NUMERICS[cfg]} for pattern in patterns]


def _off(patterns: str) -> list[dict[str, Any]]:
    return [{"quantizer_name": pattern, "enable": False} for pattern in patterns.split()]


def _both(cfg: str, start: str = "*") -> list[dict[str, Any]]:
    return _on(cfg, f"{start}weight_quantizer", f"{start}input_quantizer")


UNITS: Mapping[str, list[dict[str, Any]]] = {
    "attention_qkv_fp8": _on("fp8", "*[qkv]_bmm_quantizer", "*softmax_quantizer"),
    "base_disable_all": _off("*"),
    "block_sparse_moe_nvfp4": _both("nvfp4", "*block_sparse_moe*"),
    "default_disabled_quantizers": _off(_OFF),
    "experts_nvfp4": _both("nvfp4", "*.experts.*"),
    "kv_fp8": _on("fp8", "*[kv]_bmm_quantizer"),
    "kv_fp8_affine": _on("fp8", "*[kv]_bmm_quantizer"),
    "kv_fp8_cast": _on("fp8", "*[kv]_bmm_quantizer"),
    "kv_nvfp4": _on("nvfp4", "*[kv]_bmm_quantizer"),
    "kv_nvfp4_affine": _on("nvfp4", "*[kv]_bmm_quantizer"),
    "kv_nvfp4_cast": _on("nvfp4", "*[kv]_bmm_quantizer"),
    "kv_nvfp4_rotate": _on("nvfp4", "*[kv]_bmm_quantizer"),
    "mamba_moe_disabled_quantizers": _off(_OFF_MAMBA),
    "mixer_mlp_nvfp4": [
        *_both("nvfp4", "*.mixer.up_proj."),
        *_both("nvfp4", "*.mixer.down_proj."),
    ],
    "w4_nvfp4": _on("nvfp4", "*weight_quantizer"),
    "w4a4_nvfp4_nvfp4": _both("nvfp4"),
    "w4a4_nvfp4_nvfp4_four_over_six": [
        *_on("nvfp4_four_over_six", "*weight_quantizer"),
        *_on("nvfp4", "*input_quantizer"),
    ],
    "w8a8_fp8_fp8": _both("fp8"),
}
"""{file of configs/ptq/units: its entries}."""

_PIECES: Mapping[str, Any] = {
    **{f"configs/numerics/{name}": piece for name, piece in NUMERICS.items()},
    **{f"configs/ptq/units/{name}": piece for name, piece in UNITS.items()},
}


def resolved(value: Any) -> Any:
    """A parsed file with its imports replaced: its `quantize` where it is a recipe.

    A value without imports comes back as it is.

    Raises:
        PatternError: a piece is not in ModelOpt's library, or has no name in `imports`.
    """
    if isinstance(value, list) and len(value) == 2 and _has_imports(value[0]):
        return _replaced(value[1], _pieces(value[0]["imports"]))  # two documents
    if not isinstance(value, Mapping):
        return value
    pieces = _pieces(value["imports"]) if _has_imports(value) else {}
    body = {key: item for key, item in value.items() if key != "imports"} if pieces else value
    if isinstance(body.get("auto_quantize"), Mapping) and "quantize" not in body:
        raise PatternError(
            "found a recipe of auto_quantize, which searches for a list; expected a list; quantize"
            " with it, and save hf_quant_config.json"
        )
    inner = body.get("quantize")
    body = inner if isinstance(inner, Mapping) and "quant_cfg" in inner else body
    return _replaced(body, pieces) if pieces else body


def _has_imports(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("imports"), Mapping)


def _pieces(imports: Mapping[str, Any]) -> dict[str, Any]:
    """{name: piece} of an `imports` section."""
    pieces = {}
    for name, path in imports.items():
        key = str(path).removesuffix(".yaml").removesuffix(".yml").removeprefix("./")
        if key not in _PIECES:
            hint = did_you_mean(key[:120], _PIECES, otherwise="write its entries out")
            raise PatternError(
                f"found the import {str(name)[:80]!r} of {str(path)[:120]!r}; expected a piece of"
                f" ModelOpt's own library (configs/numerics, configs/ptq/units), since a list is"
                f" one text; {hint}"
            )
        pieces[str(name)] = _PIECES[key]
    return pieces


def _replaced(value: Any, pieces: Mapping[str, Any]) -> Any:
    """A value with pieces in the places of `$import`."""
    if isinstance(value, list):
        items: list[Any] = []
        for item in value:
            if isinstance(item, Mapping) and set(item) == {IMPORT}:
                piece = _piece(item[IMPORT], pieces)
                items += piece if isinstance(piece, list) else [piece]
            else:
                items.append(_replaced(item, pieces))
        return items
    if not isinstance(value, Mapping):
        return value
    own = {key: _replaced(item, pieces) for key, item in value.items() if key != IMPORT}
    if IMPORT not in value:
        return own
    names = value[IMPORT] if isinstance(value[IMPORT], list) else [value[IMPORT]]
    merged: dict[Any, Any] = {}
    for name in names:
        piece = _piece(name, pieces)
        if not isinstance(piece, Mapping):
            raise PatternError(
                f"found {IMPORT} {str(name)[:80]!r} inside an object; expected a piece that is an"
                " object; import it as an item of the list"
            )
        merged |= piece
    return merged | own


def _piece(name: Any, pieces: Mapping[str, Any]) -> Any:
    if not isinstance(name, str) or name not in pieces:
        hint = did_you_mean(str(name)[:80], pieces, otherwise="give it a path under imports")
        raise PatternError(
            f"found {IMPORT} {str(name)[:80]!r}; expected one of {', '.join(pieces)[:300]}; {hint}"
        )
    return pieces[name]
