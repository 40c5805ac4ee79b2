"""Are a component's weights quantized already, and by what?

A score compares what a quantized model generates with what the same model generates in bf16. Where
the weights on the disk are quantized already, that reference is none.

    found = describe_quantized(folder / "transformer", files)
    found.what          # "bitsandbytes (`quantization_config` in config.json)", or None

Method. A quantized component says so in its config files, in the names of its tensors (scales,
zero points, packed values), or in their dtypes. Configs and headers are read, weights are not.

Plain values of float8 or the like, without scales, are weights that anything can load; they are
told apart (`is_plain`), since a text encoder may be served with them.

What it does not do: recognise weights that were quantized and written in bf16 again.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sensitivity.core.outside_files import CONFIG, read_bytes
from sensitivity.core.words import printable
from sensitivity.models.config_files import README, read_config
from sensitivity.models.weight_headers import WeightHeader, read_header

CONFIG_KEYS = ("quantization_config", "compression_config", "quantization")
"""Keys of a component's config under which tools write how they quantized it."""
QUANTIZER_FILES = {
    "hf_quant_config.json": "ModelOpt",
    "quantize_config.json": "GPTQ or AWQ",
    "quant_config.json": "a quantizer",
    "quanto_qmap.json": "quanto",
    "quantization_map.json": "quanto",
}
"""{file that only a quantizer writes: the quantizer}."""
METADATA = {
    "_quantization_metadata": "ComfyUI",
    "quantization_config": "SVDQuant (Nunchaku)",
    "quantization_metadata": "a quantizer",
}
"""{key in a header's own texts: the quantizer}."""
NAMES = (
    (
        "bitsandbytes",
        re.compile(r"\.(nested_)?(absmax|quant_map)$|quant_state\.|\.(SCB|weight_format)$"),
    ),
    (
        "ModelOpt",
        re.compile(
            r"(weight|input|output|bmm|softmax)_quantizer\b|(^|[._])amax$|\.weight_scale_2$"
        ),
    ),
    (
        "SVDQuant (Nunchaku)",
        re.compile(r"\.(wscales|wtscale|wcscales|wzeros|smooth_factor(_orig)?)$"),
    ),
    ("compressed-tensors", re.compile(r"\.weight_(packed|shape|zero_point|global_scale)$")),
    ("GPTQ or AWQ", re.compile(r"\.(qweight|qzeros|g_idx)$")),
    ("ComfyUI", re.compile(r"(^|\.)(scaled_fp8|comfy_quant|scale_weight|scale_input)$")),
    ("quanto", re.compile(r"\.weight\._(data|scale|shift)$|\.weight_qtype$")),
    ("torchao", re.compile(r"(weight[._:]|\._weight_)(qdata|int_data|packed_weight|tensor_impl)")),
    ("a GGUF converter", re.compile(r"\.(quant_type|quant_shape)$")),
    ("a quantizer with scales", re.compile(r"\.(weight|input|output|k|v)_scale(_inv)?$")),
)
"""(quantizer, names of tensors that its checkpoints have and no unquantized one has)."""
WHOLE_DTYPES = {"F64", "F32", "F16", "BF16"}
"""dtypes of weights that are not quantized."""
MINI_FLOATS = re.compile(r"F[468](_|$)")
"""dtypes of eight bits or fewer, as safetensors spells them."""
PLAIN_DTYPES = {"F8_E4M3", "F8_E5M2"}
"""dtypes whose values torch casts to bf16 as they are."""
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
FRONT_MATTER_BYTES = 2**16


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantized:
    """Signs of quantized weights.

    Attributes:
        what: the quantizer and where it shows, in words.
        is_plain: whether the weights are values without scales, which load as they are.
    """

    what: str
    is_plain: bool = False


def describe_quantized(folder: Path, files: Iterable[Path] = ()) -> Quantized | None:
    """How a component's weights are quantized; None if nothing says so.

    Args:
        folder: the component's folder.
        files: its safetensors files; () looks at configs alone.

    Raises:
        PipelineError: a config cannot be read.
        OSError, ValueError: a header cannot be read.
    """
    if found := describe_config(folder):
        return Quantized(what=found)
    headers = {path.name: read_header(path) for path in files}
    for name, header in headers.items():
        if found := _named_in(header):
            return Quantized(what=f"{found}, in {name}")
    for name, header in headers.items():
        if small := _small_dtype(header):
            return replace(small, what=f"{small.what}, in {name}")
    return None


def describe_config(folder: Path) -> str | None:
    """How a component is quantized by its config files; None if they do not say that it is."""
    path = folder / "config.json"
    config = read_config(path) if path.is_file() else {}
    nested = {f"{key}.": part for key, part in config.items() if isinstance(part, dict)}
    for prefix, part in {"": config, **nested}.items():  # such as text_config
        for key in CONFIG_KEYS:
            if isinstance(how := part.get(key), dict) and how:
                return f"{_method(how)} (`{prefix}{key}` in config.json)"
    named = next((name for name in QUANTIZER_FILES if (folder / name).is_file()), None)
    return f"{QUANTIZER_FILES[named]} ({named})" if named else None


def base_model(folders: Iterable[Path], *, but: str | None = None) -> str | None:
    """The Hub id of the model that a quantized one was made of, where its files say so.

    Args:
        folders: the pipeline's folder and the component's, in the order in which they are asked.
        but: the Hub id of the quantized model itself.
    """
    for folder in folders:
        for text in (*_in_readme(folder / README), *_in_configs(folder)):
            if HUB_ID.fullmatch(text) and text != but:
                return text
    return None


def _method(how: Mapping[str, Any]) -> str:
    """The quantizer in words, from its config."""
    named = [how.get(key) for key in ("quant_method", "quant_algo", "quant_type", "format")]
    texts = [printable(value)[:60] for value in named if isinstance(value, str) and value]
    if texts:
        return texts[0]
    bits = next((key for key in ("load_in_4bit", "load_in_8bit") if how.get(key)), None)
    return f"bitsandbytes, {bits}" if bits else "a quantizer"


def _named_in(header: WeightHeader) -> str | None:
    """The quantizer whose names or texts a header has, with one of them."""
    key = next((key for key in METADATA if key in header.metadata), None)
    if key:
        return f"{METADATA[key]} (`{key}` in the header)"
    for quantizer, names in NAMES:
        name = next((name for name in header.tensors if names.search(name)), None)
        if name:
            return f"{quantizer} ({printable(name)[:200]})"
    return None


def _small_dtype(header: WeightHeader) -> Quantized | None:
    """What a header says of weights that are stored in fewer bits than bf16."""
    for name, tensor in header.tensors.items():
        if tensor.dtype in WHOLE_DTYPES:
            continue
        is_weight = "weight" in name.rpartition(".")[2] and len(tensor.shape) > 1
        is_packed = tensor.dtype in ("I8", "U8") and len(tensor.shape) > 1 and tensor.shape[0] > 1
        if MINI_FLOATS.match(tensor.dtype) or is_weight or is_packed:
            return Quantized(
                what=f"{tensor.dtype} values ({printable(name)[:200]})",
                is_plain=tensor.dtype in PLAIN_DTYPES and not _has_scales(header, name),
            )
    return None


def _has_scales(header: WeightHeader, name: str) -> bool:
    """Whether a module has tensors beside its weight and bias."""
    module = name.rpartition(".")[0]
    usual = {name, f"{module}.weight", f"{module}.bias"}
    return any(other.rpartition(".")[0] == module for other in header.tensors if other not in usual)


def _in_readme(path: Path) -> Iterator[str]:
    """`base_model` of a model card's front matter: one id, or a list of them."""
    try:
        text = read_bytes(path, CONFIG)[:FRONT_MATTER_BYTES].decode("utf-8", errors="replace")
    except (OSError, ValueError):
        return
    _, _, matter = text.partition("---")
    matter = matter.partition("\n---")[0]
    found = re.search(r"^base_model:[ \t]*(.*(?:\n[ \t]*-.*)*)", matter, re.MULTILINE)
    if found:
        yield from re.split(r"[\s,\[\]\"']+", found[1])


def _in_configs(folder: Path) -> Iterator[str]:
    for name in ("config.json", "model_index.json"):
        if (folder / name).is_file():
            config = read_config(folder / name)
            for key in ("base_model", "base_model_name_or_path", "_name_or_path"):
                if isinstance(config.get(key), str):
                    yield config[key]
