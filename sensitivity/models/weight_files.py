"""Which weight files of a pipeline folder would be opened, and are they whole?

`find_weights`: answered from names and headers, before any weight is read.

    files = find_weights(folder, {"transformer": "FluxTransformer2DModel"}, variant=None)
    files["transformer"].variant, len(files["transformer"].files)

Conventions: safetensors only, since pickled files run code when they are opened. A header says how
many bytes follow it, so a file that was cut short is known without reading it. A component without
files of the variant that was asked for takes the plain ones, as diffusers does, if another
component has the variant.

What it does not do: compare weights with what the model's class expects.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from sensitivity.errors import PipelineError

NAME = re.compile(
    r"(?:diffusion_pytorch_)?model(?:\.(?P<variant>\w+))?(?:-\d{5}-of-\d{5})?(?:\.(?P<legacy>\w+))?\.safetensors"
    r"|(?:diffusion_pytorch_)?model\.safetensors(?:\.(?P<before>\w+))?\.index(?:\.(?P<after>\w+))?\.json"
)
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True, kw_only=True, slots=True)
class ComponentFiles:
    """The weight files of one component, all of one variant (None: the plain one)."""

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
    """The files of each component, looked at but not read.

    Args:
        folder: a diffusers pipeline folder.
        classes: {component with weights: its class}, for messages.
        variant: as in file names ("fp16"), None for plain names.

    Raises:
        PipelineError: a component's folder or files are missing, cut short, pickled, or of other
            variants.
    """
    held = {name: _variants(folder, name, kind) for name, kind in classes.items()}
    if variant is not None and not any(variant in found for found in held.values()):
        there = sorted({one for found in held.values() for one in found if one is not None})
        raise PipelineError(
            f"{folder} has no weights of the variant {variant!r}; allowed are"
            f" {', '.join(map(repr, there)) or 'the plain ones alone'}: correct `variant` under"
            " [model] in the study TOML, or take it out"
        )
    chosen = {}
    for name, found in held.items():
        kind = variant if variant in found else None
        if kind not in found:
            first = sorted(str(one) for one in found)[0]
            raise PipelineError(
                f"{folder / name} holds weights of the variant"
                f" {', '.join(sorted(map(repr, found)))} alone; allowed are plain ones, or a"
                " variant that is "
                f'asked for: set `variant = "{first}"` under [model] in a study TOML'
            )
        files = _shards(found[kind])
        for path in files:
            _check_whole(path)
        chosen[name] = ComponentFiles(component=name, files=files, variant=kind)
    return chosen


def _variants(folder: Path, name: str, kind: str) -> dict[str | None, list[Path]]:
    """{variant: its files and indexes} of a component.

    Raises PipelineError where there is none that may be opened.
    """
    place = folder / name
    if not place.is_dir():
        raise PipelineError(
            f"{place} is not there, and model_index.json names {kind} for {name}; allowed is a"
            " folder for each component: save the pipeline again with"
            " `pipeline.save_pretrained(folder)`, or download it again"
        )
    found: dict[str | None, list[Path]] = {}
    for path in sorted(place.iterdir()):
        match = NAME.fullmatch(path.name)
        if match:
            found.setdefault(next((text for text in match.groups() if text), None), []).append(path)
    if not found:
        pickled = [path.name for path in sorted(place.iterdir()) if path.suffix in PICKLES]
        what = (
            f"holds {', '.join(pickled[:3])} and no safetensors" if pickled else "holds no weights"
        )
        why = "pickled files run code when they are opened" if pickled else f"{kind} has some"
        raise PipelineError(
            f"{place} {what}; allowed are .safetensors files, since {why}: save the pipeline again"
            " with `pipeline.save_pretrained(folder)`, or pass --weights random for a run without"
            " weights"
        )
    return found


def _shards(paths: list[Path]) -> tuple[Path, ...]:
    """The files to open among those of a variant: what the index lists, else the only ones.

    Raises PipelineError where some are missing.
    """
    indexes = [path for path in paths if path.suffix == ".json"]
    single = [path for path in paths if path.suffix != ".json" and "-of-" not in path.name]
    if single and not indexes:
        return tuple(single[:1])
    if not indexes:
        raise PipelineError(
            f"{paths[0].parent} holds {len(paths)} shards and no"
            f" {paths[0].name.split('-')[0]}.safetensors.index.json, which lists them; allowed is"
            " both: download the folder again"
        )
    index = indexes[0]
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        listed = [index.parent / name for name in names]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise PipelineError(
            f"{index} could not be read ({type(error).__name__}: {error}); allowed is the index"
            " that `save_pretrained` writes: download it again"
        ) from None
    missing = [path.name for path in listed if not path.is_file()]
    if missing:
        raise PipelineError(
            f"{index.parent} lacks {len(missing)} of the {len(listed)} shards that {index.name}"
            f" lists, the first is {missing[0]}; allowed is a folder with all of them: download it"
            " again"
        )
    return tuple(listed)


def _check_whole(path: Path) -> None:
    try:
        with safe_open(path, framework="pt"):
            pass
    except (OSError, SafetensorError) as error:
        with path.open("rb") as file:
            pointer = file.read(len(LFS_POINTER)) == LFS_POINTER
        what = (
            "is a Git LFS pointer, not the weights"
            if pointer
            else f"is cut short or damaged ({error})"
        )
        step = "run `git lfs pull` in the folder" if pointer else "copy or download it again"
        raise PipelineError(
            f"{path} {what}, {path.stat().st_size} bytes; allowed is a whole safetensors file:"
            f" {step}"
        ) from None
