"""Which weight files of a pipeline folder would be loaded, and are they complete?

`find_weights` answers from names and headers, before any weight is read.

    files = find_weights(folder, {"transformer": "FluxTransformer2DModel"}, variant=None)
    files["transformer"].variant, len(files["transformer"].files)

Conventions. Only safetensors files count, because pickled files run code when they are opened. A
header says how many bytes follow it, so a truncated file is found without reading it. Shards lie
beside their index and nowhere else. If some component has the variant that was asked for, those
without it take their plain files, as in diffusers.

What it does not do: compare weights with what the model's class expects.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError, safe_open

from sensitivity.core.outside_files import WEIGHT_INDEX, read_bytes, reason
from sensitivity.core.words import and_more, printable
from sensitivity.errors import PipelineError
from sensitivity.models.weight_headers import read_header

NAME = re.compile(
    r"(?:diffusion_pytorch_)?model"
    r"(?:"
    r"(?:\.(?P<variant>\w+))?(?:-\d{5}-of-\d{5})?(?:\.(?P<legacy>\w+))?\.safetensors"
    r"|\.safetensors(?:\.(?P<before>\w+))?\.index(?:\.(?P<after>\w+))?\.json"
    r")"
)
"""Names of weight files and of their indexes, in all forms of diffusers and transformers."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
OTHER_FORMS = {
    ".gguf": "GGUF files are quantized, and no reference of a score",
    ".onnx": "ONNX graphs have no Linears of torch",
    ".engine": "TensorRT engines have no Linears of torch",
    ".plan": "TensorRT engines have no Linears of torch",
    ".msgpack": "weights of Flax are not loaded",
    ".h5": "weights of TensorFlow are not loaded",
}
"""{ending of weights in another form: why they are not loaded}."""
LFS_POINTER = b"version https://git-lfs"


class _ShardIndex(BaseModel):
    """What a `*.safetensors.index.json` says: {tensor: the file that holds it}."""

    weight_map: dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class ComponentFiles:
    """The weight files of one component, all of one variant.

    Attributes:
        component: its name.
        files: what is loaded.
        variant: as in the files' names; None means plain names.
    """

    component: str
    files: tuple[Path, ...]
    variant: str | None

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for path in self.files)


def find_weights(
    folder: Path, classes: Mapping[str, str], *, variant: str | None
) -> dict[str, ComponentFiles]:
    """The files of each component; their headers are read, their weights are not.

    Args:
        folder: a diffusers pipeline folder.
        classes: {component with weights: its class}, for messages.
        variant: as in file names ("fp16"); None means plain names.

    Raises:
        PipelineError: a component's folder or files are missing, truncated, pickled, or of another
            variant.
    """
    held = {name: _variants(folder, name, kind) for name, kind in classes.items()}
    if variant is not None and not any(variant in found for found in held.values()):
        there = sorted({one for found in held.values() for one in found if one is not None})
        raise PipelineError(
            f"{folder} has no weights of the variant {variant!r}; expected one of"
            f" {', '.join(map(repr, there)) or '(there are only plain ones)'}: correct `variant`"
            " under [model] in the study TOML, or take it out"
        )
    chosen = {}
    for name, found in held.items():
        kind = variant if variant in found else None
        if kind not in found:
            first = sorted(str(one) for one in found)[0]
            raise PipelineError(
                f"{folder / name} holds weights of the variant"
                f" {', '.join(sorted(map(repr, found)))} alone; expected plain ones, or a variant"
                f' that the study names: set `variant = "{first}"` under [model] in a study TOML'
            )
        files = _shards(found[kind])
        for path in files:
            _check_whole(path)
        chosen[name] = ComponentFiles(component=name, files=files, variant=kind)
    return chosen


def _variants(folder: Path, name: str, kind: str) -> dict[str | None, list[Path]]:
    """{variant: its files and indexes} of a component of class `kind`.

    Raises PipelineError where there are none.
    """
    place = folder / name
    if not place.is_dir():
        raise PipelineError(
            f"{place} is missing, and model_index.json names {kind} for {name}; expected a folder"
            " for each component: save the pipeline again with"
            " `pipeline.save_pretrained(folder)`, or download it again"
        )
    found: dict[str | None, list[Path]] = {}
    for path in sorted(place.iterdir()):
        match = NAME.fullmatch(path.name)
        if match:
            found.setdefault(next((text for text in match.groups() if text), None), []).append(path)
    if not found:
        raise _no_weights(place, kind)
    return found


def _shards(paths: list[Path]) -> tuple[Path, ...]:
    """The files to load among those of a variant: those that the index lists, or the single one.

    Raises PipelineError where some are missing.
    """
    indexes = [path for path in paths if path.suffix == ".json"]
    single = [path for path in paths if path.suffix != ".json" and "-of-" not in path.name]
    if single and not indexes:
        return tuple(single[:1])
    if not indexes:
        raise PipelineError(
            f"{paths[0].parent} holds {len(paths)} shards and no"
            f" {paths[0].name.split('-')[0]}.safetensors.index.json, which lists them; expected"
            " both: download the folder again"
        )
    index = indexes[0]
    try:
        data = read_bytes(index, WEIGHT_INDEX)
        weight_map = _ShardIndex.model_validate_json(data).weight_map
    except (OSError, ValueError) as error:
        found = reason(error).partition("; expected")[0]
        if isinstance(error, ValidationError):
            found = error.errors()[0]["msg"]
        raise PipelineError(
            f"{index} could not be read ({found}); expected the index that `save_pretrained` writes"
            " (`weight_map`: the file of each weight): download it again"
        ) from None
    names = sorted(set(weight_map.values()))
    if odd := [name for name in names if not _is_shard_name(name)]:
        raise PipelineError(
            f"{index} names {and_more([ascii(name[:80]) for name in odd], most=3)}; expected names"
            " of .safetensors files in the same folder: download it again"
        )
    listed = [index.parent / name for name in names]
    missing = [path.name for path in listed if not path.is_file()]
    if missing:
        raise PipelineError(
            f"{index.parent} lacks {len(missing)} of the {len(listed)} shards that {index.name}"
            f" lists, the first is {missing[0]}; expected a folder with all of them: download it"
            " again"
        )
    return tuple(listed)


def _is_shard_name(name: str) -> bool:
    """Whether an index's text is the name of a safetensors file beside it."""
    return name.isprintable() and name.endswith(".safetensors") and name == Path(name).name


def _no_weights(place: Path, kind: str) -> PipelineError:
    """The error for a component's folder without safetensors."""
    names = [path.name for path in sorted(place.iterdir())]
    pickled = [name for name in names if Path(name).suffix in PICKLES]
    other = [name for name in names if Path(name).suffix in OTHER_FORMS]
    what, why = "holds no weights", f"{kind} has some"
    if pickled or other:
        what = f"holds {printable(', '.join((pickled or other)[:3]))} and no safetensors"
        why = (
            "pickled files run code when they are opened"
            if pickled
            else OTHER_FORMS[Path(other[0]).suffix]
        )
    return PipelineError(
        f"{place} {what}; expected .safetensors files, because {why}: save the pipeline again"
        " with `pipeline.save_pretrained(folder)`, or set `weights` to random for a run without"
        " weights"
    )


def _check_whole(path: Path) -> None:
    """Raise PipelineError unless the file is a complete safetensors file."""
    try:
        read_header(path)
        with safe_open(path, framework="pt"):
            pass
    except (OSError, ValueError, SafetensorError) as error:
        raise _not_whole(path, error) from None


def _not_whole(path: Path, error: Exception) -> PipelineError:
    found = str(error).partition("; expected")[0]
    if not path.is_file():
        return PipelineError(
            f"{path} cannot be read ({found}); expected a complete safetensors file: remove it, and"
            " download it again"
        )
    with path.open("rb") as file:
        pointer = file.read(len(LFS_POINTER)) == LFS_POINTER
    what = (
        "is a Git LFS pointer, not the weights" if pointer else f"is truncated or damaged ({found})"
    )
    step = "run `git lfs pull` in the folder" if pointer else "copy or download it again"
    return PipelineError(
        f"{path} {what}, {path.stat().st_size} bytes; expected a complete safetensors file: {step}"
    )
