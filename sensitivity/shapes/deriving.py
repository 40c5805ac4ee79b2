"""What would a study of this model say?

`derive_study`: a folder's or a Hub id's config files -> a study that can be read, corrected and
kept.

    spec = derive_study(resolve_spec("./my-pipeline"))         # or resolve_spec("org/name"); a study that is declared comes back as it is
    save_study(spec, Path("my-pipeline.toml"))                 # from now on --model my-pipeline.toml

What is derived, from where:
- the denoiser: the component whose class is diffusers' own and whose forward takes a timestep,
  whatever its name; others of the same class are searched with it; where no forward does, a
  component with a usual name;
- settings: those arguments of the pipeline's call that decide shapes, steps and guidance, with the
  call's own defaults. Sizes that have none are what the pipeline draws, seen in a run without
  weights. Where guidance is a true CFG that needs a negative prompt, it is " ";
- the commit that a Hub id means today;
- fused roles: the names that consumers fuse and that occur; what is always skipped: what chooses
  among experts;
- prompts: general ones, of pictures or of videos, unless the study has its own.

What it does not know: how many steps a distilled model wants (`Derivation.notes` say where one is
suspected), and how long texts are where the pipeline does not pad them (`[pricing]` has QwenImage's
lengths). No weight file is opened; a folder needs no network.
"""

import inspect
import math
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
from torch import nn

from sensitivity.core.fqns import block_of, indices_of
from sensitivity.core.json_files import write_whole
from sensitivity.core.patterns import expand
from sensitivity.errors import MeasurementError, OutputError, PipelineError
from sensitivity.models.hub import quiet
from sensitivity.models.model_index import component_class, config_folder, pipeline_call, read_json
from sensitivity.models.skeleton import build_component
from sensitivity.shapes.run import run_shapes
from sensitivity.shapes.table import ShapeTable
from sensitivity.spec.hand_lists import Reasoned
from sensitivity.spec.prompts import PICTURES, VIDEOS
from sensitivity.spec.study_spec import SearchSection, StudySpec

SIZES = ("height", "width", "num_frames")
KEPT = (
    *SIZES,
    "frame_rate",
    "num_inference_steps",
    "guidance_scale",
    "true_cfg_scale",
    "max_sequence_length",
)
"""Arguments of a pipeline's call that a derived study states."""
USUAL_NAMES = ("transformer", "unet", "prior", "decoder")
"""Names of denoisers, the main one of a pipeline first."""
TIME = re.compile(r"t|r|time|.*timesteps?(_.*)?|sigmas?")
"""How denoisers of diffusers call the argument that says how noisy their input is."""
FUSED = (
    ("to_q", "to_k", "to_v"),
    ("add_q_proj", "add_k_proj", "add_v_proj"),
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("wq", "wk", "wv"),
    ("w1", "w3"),
    ("gate_proj", "up_proj"),
    ("linear_1", "linear_3"),
)
"""Roles that servers compute as one Linear: q, k and v; the two halves of a gated MLP."""
NEVER = (("*router*", "it chooses among experts: another choice is no small error"),)
"""(glob, reason): what is always skipped where it occurs."""
FEW_STEPS = re.compile("turbo|lightning|schnell|distill|lcm|hyper|sprint|klein", re.IGNORECASE)
STEPS_TO_SEE = 2
USUAL_PIXELS, SMALLEST, PIXEL_STEP = 1024, 64, 32
"""Height and width that are halved where the call has no default, the smallest that is tried, and
what sizes are multiples of.
"""
PIXELS_AT_ONCE, MOST_AT_ONCE = 4 * 1024 * 1024, 8
"""What is drawn together in a search: four pictures of 1024 x 1024, or fewer larger ones; at most
eight.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Derivation:
    """A study; in words what could not be derived or wants a look; and the lines that stand above
    its TOML. No words where the study was declared.
    """

    spec: StudySpec
    notes: tuple[str, ...] = ()
    heading: tuple[str, ...] = ()


def derive_study(spec: StudySpec) -> StudySpec:
    """The study that `derive` gives, without its notes."""
    return derive(spec).spec


def derive(spec: StudySpec) -> Derivation:
    """Complete a study of which only the model is known (`spec.bare`); any other is given back as
    it is.

    Raises:
        PipelineError: no config files can be had, they are no pipeline, it has no denoiser, or it
            draws from something other than a prompt.
    """
    if not spec.bare:
        return Derivation(spec=spec)
    folder = config_folder(spec)  # a Hub id is asked for once
    known = spec.model_copy(update={"model": spec.model.model_copy(update={"config": folder})})
    pipeline, call = pipeline_call(known)
    _check_call(spec, pipeline, call)
    index = read_json(folder / "model_index.json")
    denoisers = _denoisers(spec, pipeline, index)
    component = next((name for name in USUAL_NAMES if name in denoisers), next(iter(denoisers)))
    alike = (
        component,
        *(
            name
            for name, cls in denoisers.items()
            if name != component and cls is denoisers[component]
        ),
    )
    notes = []
    if index.get("is_distilled") is True or FEW_STEPS.search(str(spec.model.hub or folder.name)):
        notes.append(
            f"steps and guidance are the defaults of {pipeline}; this model seems to be distilled,"
            " which may want few steps and no guidance"
        )
    if strangers := [name for name in denoisers if name not in alike]:
        notes.append(
            f"{', '.join(strangers)}: denoisers of another class, which are not searched;"
            " `model.component` chooses"
        )
    settings = _settings(call, read_json(folder / component / "config.json")) | spec.settings
    seen = _seen(known, component, settings, call)
    if seen.failure:
        what = "the settings say how it is called instead" if seen.ran else "its size is left to it"
        notes.append(
            f"{pipeline} does not run without weights as it is called by default ({seen.failure}):"
            f" {what}"
        )
    settings = {
        key: seen.settings[key]
        for key in dict.fromkeys((*KEPT, *seen.settings))
        if key in seen.settings
    }
    model = spec.model.model_copy(
        update={
            "component": component,
            "components": alike if len(alike) > 1 else (),
            "revision": spec.model.revision or _commit(folder),
            "vae_tiling": seen.tiling or spec.model.vae_tiling,
        }
    )
    derived = StudySpec(
        name=spec.name,
        title=_title(pipeline, settings),
        model=model,
        settings=settings,
        prompts=(
            spec.prompts
            if "prompts" in spec.model_fields_set
            else VIDEOS
            if seen.video
            else PICTURES
        ),
        fidelity=spec.fidelity,
        search=_search(settings, seen.fqns, video=seen.video),
        pricing=spec.pricing,
    )
    first = (
        f"derived from the config files of {spec.model.hub or folder}; steps and guidance are the"
        f" defaults of {pipeline}: compare them with the model card"
    )
    return Derivation(spec=derived, notes=tuple(notes), heading=(first, *notes))


def _check_call(spec: StudySpec, pipeline: str, call: Mapping[str, Any]) -> None:
    """Raise PipelineError for a pipeline that does not draw from a prompt alone."""
    if "prompt" not in call:
        raise PipelineError(
            f"{spec.name}: {pipeline} takes no prompt; allowed are pipelines that draw from text:"
            " name one"
        )
    needed = [
        name
        for name, default in call.items()
        if default is inspect.Parameter.empty and name not in ("prompt", "args", "kwargs")
    ]
    if needed:
        raise PipelineError(
            f"{spec.name}: {pipeline} needs {', '.join(needed)} besides a prompt; allowed are"
            " pipelines that draw from text alone: name one"
        )


def _denoisers(
    spec: StudySpec, pipeline: str, index: Mapping[str, Any]
) -> dict[str, type[nn.Module]]:
    """{component: class} of the pipeline's denoisers, in the order of its index.

    Raises PipelineError where there is none.
    """
    entries = {
        name: entry
        for name, entry in index.items()
        if isinstance(entry, list) and len(entry) == 2 and all(isinstance(x, str) for x in entry)
    }
    modules: dict[str, type[nn.Module]] = {}
    with quiet():
        for name, (library, class_name) in entries.items():
            if library == "transformers" or name == "safety_checker":
                continue  # encoders of texts; whatever a safety checker is, it is not run
            cls = component_class(library, class_name)
            if not issubclass(cls, nn.Module):
                continue
            modules[name] = cls
    found = {name: cls for name, cls in modules.items() if _denoises(cls)}
    found = found or {
        name: cls for name, cls in modules.items() if name in USUAL_NAMES and not _codes(cls)
    }  # one that needs no timestep
    if not found:
        raise PipelineError(
            f"{spec.name}: {pipeline} has no denoiser among"
            f" {', '.join(modules) or 'its components'}; allowed are pipelines of diffusers with a"
            " component whose forward takes a timestep: name another, or write a study TOML with"
            " `model.component` (studies/README.md)"
        )
    return found


def _denoises(cls: type[nn.Module]) -> bool:
    """Whether a class of diffusers is a denoiser: its forward takes a timestep, it neither encodes
    nor decodes, and is no helper of a denoiser, as a ControlNet is.
    """
    timed = any(TIME.fullmatch(name) for name in inspect.signature(cls.forward).parameters)
    return timed and not _codes(cls) and "controlnet" not in cls.__name__.lower()


def _codes(cls: type[nn.Module]) -> bool:
    return hasattr(cls, "encode") or hasattr(cls, "decode")


def _settings(call: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The call's own defaults that are numbers, texts no longer than the denoiser takes, and the
    negative prompt that a true CFG needs.
    """
    found = {
        key: call[key]
        for key in KEPT
        if type(call.get(key)) in (int, float) and math.isfinite(call[key])
    }
    longest = [
        config[key]
        for key in ("max_text_seq_length", "max_sequence_length")
        if type(config.get(key)) is int
    ]
    if "max_sequence_length" in found:
        found["max_sequence_length"] = min([found["max_sequence_length"], *longest])
    return found | (
        {"negative_prompt": " "}
        if found.get("true_cfg_scale", 0) > 1 and "negative_prompt" in call
        else {}
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Seen:
    """What runs without weights show: settings that run, where any do (`ran`), FQNs of the
    denoiser's Linears, why the first of them failed, whether it draws clips, and whether its VAE
    decodes in tiles only.
    """

    settings: dict[str, Any]
    fqns: tuple[str, ...]
    failure: str
    ran: bool
    video: bool
    tiling: bool = False


def _seen(
    known: StudySpec, component: str, settings: Mapping[str, Any], call: Mapping[str, Any]
) -> _Seen:
    """Runs of two steps without weights: at the pipeline's own size, else as large as it runs, at
    most.
    """
    few = {"num_inference_steps": STEPS_TO_SEE} if "num_inference_steps" in call else {}
    first = ""
    for changed in [{}] if known.settings.keys() & {*SIZES} else _attempts(settings, call):
        tried = known.model_copy(update={"settings": {**settings, **changed, **few}})
        try:
            table, tiling = _run(tried, component)
        except (MeasurementError, PipelineError) as error:
            first = first or str(error).partition(";")[0][:300]
            continue
        sizes = {
            key: size
            for key in SIZES
            if key in call and isinstance(size := table.settings.get(key), int)
        }
        return _Seen(
            settings={**sizes, **settings, **changed},
            fqns=(*(linear.fqn for linear in table.linears), *table.uncalled),
            failure=first,
            ran=True,
            video="num_frames" in table.settings,
            tiling=tiling,
        )
    linears = [
        fqn
        for fqn, part in build_component(known, component).named_modules()
        if isinstance(part, nn.Linear)
    ]
    return _Seen(
        settings=dict(settings),
        fqns=tuple(linears),
        failure=first,
        ran=False,
        video="num_frames" in call,
    )


def _run(spec: StudySpec, component: str) -> tuple[ShapeTable, bool]:
    """A run without weights, and whether it decoded in tiles, as it does where the VAE can do
    nothing else (Allegro's).
    """
    try:
        return run_shapes(spec, component=component, batch_size=1).table, spec.model.vae_tiling
    except (MeasurementError, PipelineError) as error:
        if "tiling" not in str(error) or spec.model.vae_tiling:
            raise
    tiled = spec.model_copy(update={"model": spec.model.model_copy(update={"vae_tiling": True})})
    return run_shapes(tiled, component=component, batch_size=1).table, True


def _attempts(settings: Mapping[str, Any], call: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Settings to try, one after the other: the pipeline's own; sizes as they are asked, without a
    table of usual ones; half the size, a quarter, ...
    """
    yield {}
    free = {"use_resolution_binning": False} if "use_resolution_binning" in call else {}
    if free:
        yield free
    asked = {key: settings.get(key, USUAL_PIXELS) for key in ("height", "width") if key in call}
    for part in (2, 4, 8, 16):
        if asked and min(asked.values()) // part >= SMALLEST:
            yield {
                **free,
                **{key: size // part // PIXEL_STEP * PIXEL_STEP for key, size in asked.items()},
            }


def _search(settings: Mapping[str, Any], fqns: Sequence[str], *, video: bool) -> SearchSection:
    pixels = (
        math.prod(settings.get(key, 1) for key in SIZES)
        if {"height", "width"} <= settings.keys()
        else PIXELS_AT_ONCE
    )
    together = 1 if video else max(1, min(MOST_AT_ONCE, PIXELS_AT_ONCE // pixels))
    skipped = tuple(
        Reasoned(pattern=pattern, reason=reason)
        for pattern, reason in NEVER
        if expand([pattern], fqns).matched
    )
    nested = any(
        len(indices_of(block_of(fqn))) > 1 for fqn in fqns
    )  # the outermost blocks are depth bands already
    bands = 1 if nested else SearchSection().depth_bands
    return SearchSection(
        batch_size=together, depth_bands=bands, fused=_fused(set(fqns)), always_skip=skipped
    )


def _fused(fqns: Collection[str]) -> tuple[tuple[str, ...], ...]:
    """The families of `FUSED` of which some part of the denoiser has every member."""
    stems = {(fqn.rpartition(".")[0], fqn.rpartition(".")[2]) for fqn in fqns}
    parents = {stem for stem, _ in stems}
    return tuple(
        family
        for family in FUSED
        if any(all((stem, role) in stems for role in family) for stem in parents)
    )


def _commit(folder: Path) -> str | None:
    """The commit of a snapshot in the Hub's cache; None for other folders."""
    return (
        folder.name
        if folder.parent.name == "snapshots" and re.fullmatch("[0-9a-f]{40}", folder.name)
        else None
    )


def _title(pipeline: str, settings: Mapping[str, Any]) -> str:
    size = (
        f"{settings['width']} x {settings['height']}"
        if {"height", "width"} <= settings.keys()
        else "the pipeline's own size"
    )
    frames = f", {settings['num_frames']} frames" if "num_frames" in settings else ""
    steps = (
        f", {settings['num_inference_steps']} steps" if "num_inference_steps" in settings else ""
    )
    return f"{pipeline}, {size}{frames}{steps}; derived from its config files"


def study_toml(spec: StudySpec, heading: Sequence[str] = ()) -> str:
    """A study as TOML, which `load_spec` reads back as the same study; paths are absolute,
    `heading` becomes comments at the top.
    """
    data = spec.model_dump(mode="json", exclude_none=True)
    for section, key in (("model", "path"), ("model", "config"), ("fidelity", "weights")):
        if key in data[section]:
            data[section][key] = os.path.abspath(data[section][key])
    for section, key in (("model", "components"), ("search", "order"), ("search", "always_skip")):
        if not data[section][key]:
            del data[section][key]
    for key in ("rule_of_thumb", "published"):
        if getattr(spec, key) == StudySpec.model_fields[key].default:
            del data[key]
    return "".join(f"# {line}\n" for text in heading for line in text.splitlines()) + tomli_w.dumps(
        data
    )


def save_study(spec: StudySpec, path: Path, heading: Sequence[str] = ()) -> Path:
    """Write a study as TOML, whole or not at all.

    Raises:
        OutputError: the path cannot be written, or is a file that says something else.
    """
    text = study_toml(spec, heading).encode()
    try:
        if path.exists() and path.read_bytes() != text:
            raise OutputError(
                f"--save-study {path} is there and says something else; allowed is a new file: name"
                " another, or move that one away"
            )
    except OSError as error:
        raise OutputError(
            f"--save-study {path} cannot be read ({error.strerror}); allowed is a new file: name"
            " another"
        ) from None
    return write_whole(path, text)
