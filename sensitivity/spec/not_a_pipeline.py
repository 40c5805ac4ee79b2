"""What was given in place of a pipeline, and what should be done with it?

    describe_file(Path("flux1-dev-Q4_K.gguf"))      # ("a GGUF checkpoint, ...", "name ...")
    describe_folder(Path("my-lora"))                # ("a folder of LoRA weights ...", "load ...")
    hub_id_in("https://.../org/name/tree/main")     # "org/name"

People name what they have: one file, one component, an adapter, a language model, an engine. Each
answer is (what it is, the next step). They come from names, configs and a file's first bytes.

What this module does not do: convert anything, or open weights.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sensitivity.core.outside_files import CONFIG, check_regular, read_json
from sensitivity.core.words import printable

INDEX = "model_index.json"
SAVE = "save it with `pipeline.save_pretrained(folder)`, and name that folder"
CONVERT = (
    "convert it once: `from_single_file` of its pipeline's class, or of its denoiser's class with"
    f" the other components from the base model; then {SAVE}"
)
MERGE = (
    "load the base model, `pipeline.load_lora_weights(...)`, `pipeline.fuse_lora()`,"
    f" `pipeline.unload_lora_weights()`; then {SAVE}"
)
BASE = "name the pipeline that it was made of, whose weights are not quantized"
SOURCE = "name the diffusers pipeline that it was made of"
ADAPTER_FILES = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
    "pytorch_lora_weights.safetensors",
    "pytorch_lora_weights.bin",
)
CHECKPOINTS = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin")
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".xz", ".bz2", ".7z", ".rar", ".zst")
GRAPHS = {
    ".onnx": "an ONNX graph",
    ".engine": "a TensorRT engine",
    ".plan": "a TensorRT engine",
    ".mlmodel": "a Core ML model",
    ".mlpackage": "a Core ML model",
    ".tflite": "a TensorFlow Lite model",
    ".xml": "an OpenVINO graph",
    ".pt2": "an exported graph",
}
"""{ending: what it is}; none of them has the Linears of torch."""
LORA = re.compile(rb'"[^"]*[._](?:lora_(?:A|B|down|up)|lokr_|loha_|hada_)[^"]*"')
SMALL = re.compile(rb'"dtype":\s*"(F8_E4M3|F8_E5M2|I8|U8|F4\w*)"')
PEEK_BYTES = 2**20
PLACES = 200
"""The most subfolders that are looked into."""

Answer = tuple[str, str]


def describe_file(path: Path) -> Answer:
    """(what a file is, the next step), where a pipeline's folder was expected."""
    suffix = path.suffix.lower()
    if path.name == INDEX:
        return f"a pipeline's {INDEX}", f"name its folder, {printable(str(path.parent))}"
    if suffix == ".gguf":
        return "a GGUF checkpoint, which is quantized", BASE
    if suffix in GRAPHS:
        return GRAPHS[suffix], SOURCE
    if suffix in ARCHIVES:
        return "an archive", "unpack it, and name the folder in it that has model_index.json"
    if suffix in CHECKPOINTS:
        return _describe_checkpoint(path)
    return "a file", "name a study TOML, the folder of a diffusers pipeline, or a Hub id"


def describe_folder(path: Path) -> Answer:
    """(what a folder without model_index.json is, the next step)."""
    names = {entry.name for entry in path.iterdir()}
    if found := next((name for name in ADAPTER_FILES if name in names), None):
        return f"a folder of LoRA weights alone ({found})", MERGE
    config = _config(path) if "config.json" in names else {}
    kind, parent = config.get("_class_name"), path.resolve().parent
    if isinstance(kind, str) or (config and (parent / INDEX).is_file()):
        shown = f" ({printable(kind)[:80]})" if isinstance(kind, str) else ""
        there = printable(str(parent)) if (parent / INDEX).is_file() else f"which has {INDEX}"
        return f"one component of a pipeline{shown}", f"name the whole pipeline's folder, {there}"
    if kind := config.get("architectures") or config.get("model_type"):
        shown = printable(str(kind[0] if isinstance(kind, list) else kind))[:80]
        return f"a model of transformers ({shown}), no diffusion pipeline", "name a pipeline"
    if inner := next(_pipelines_in(path), None):
        return "a folder of folders", f"name the pipeline in it, {printable(str(inner))}"
    for name in sorted(names):
        if Path(name).suffix.lower() in (".gguf", *GRAPHS, *CHECKPOINTS):
            what, step = describe_file(path / name)
            return f"a folder with {what} ({printable(name)[:80]})", step
    return "a folder without model_index.json", f"load the pipeline, {SAVE}"


def hub_id_in(text: str) -> str | None:
    """The Hub id org/name in a web address, or in an id with a folder behind it; None elsewhere."""
    text = text.partition("?")[0].partition("#")[0]
    address = re.match(r"[a-z]+://[^/]+/(.*)", text, re.IGNORECASE)
    parts = (address[1] if address else text).strip("/").split("/")
    safe = all(re.fullmatch(r"[\w.-]+", part) and part.strip(".") for part in parts[:2])
    is_path = not address and (len(parts) == 2 or text.startswith(("/", ".", "~")))
    if len(parts) < 2 or not safe or is_path:
        return None
    return "/".join(parts[:2])


def _describe_checkpoint(path: Path) -> Answer:
    """What a file of weights is, from the first bytes of its header."""
    try:
        check_regular(path)
        with path.open("rb") as file:
            head = file.read(PEEK_BYTES)
    except (OSError, ValueError):
        return "a file that cannot be read", "name the folder of a diffusers pipeline"
    if LORA.search(head) or "lora" in path.stem.lower():
        return "a file of LoRA weights", MERGE
    if small := SMALL.search(head):
        return f"a single-file checkpoint with {small[1].decode()} weights, quantized", BASE
    return "a single-file checkpoint", CONVERT


def _config(folder: Path) -> dict[str, Any]:
    try:
        data = read_json(folder / "config.json", CONFIG)
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _pipelines_in(folder: Path) -> Iterator[Path]:
    """Pipelines' folders up to three levels below a folder, as in a cache of the Hub."""
    level = [folder]
    for _ in range(3):
        below = [child for place in level for child in sorted(place.iterdir()) if child.is_dir()]
        level = below[:PLACES]
        yield from (place for place in level if (place / INDEX).is_file())
