"""What would a study of this model say, if somebody had written one?

`derive` completes a bare study, of which only the model is known, from the model's config files.
The result can be read, corrected and kept.

    found = derive(resolve_spec("./my-pipeline"))           # or a Hub id: resolve_spec("org/name")
    save_study(found.spec, Path("my-pipeline.toml"), found.heading)

What is derived, and from what:
- the denoiser: from classes and forwards (`denoiser_classes`); others of its class are searched
  with it;
- settings: arguments of the pipeline's call that decide shapes, steps and guidance, with the call's
  own defaults. Sizes without a default are those that the pipeline generates in a run without
  weights (`probing`). Where guidance is a true CFG that needs a negative prompt, it is " ";
- the commit that a Hub id means today;
- fused roles: names that consumers fuse, if they occur (`families`); always skipped: what chooses
  among experts (`experts`);
- prompts: general ones, of pictures or of videos, unless the study has its own.

What it does not know: how many steps a distilled model wants (`notes` say where one is suspected),
and how long texts are where the pipeline does not pad them (`[pricing]` has QwenImage's lengths).
No weight file is opened. A folder needs no network.
"""

import inspect
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from sensitivity.core.fqns import block_of, indices_of
from sensitivity.core.pattern_cover import compress
from sensitivity.core.patterns import expand
from sensitivity.errors import PipelineError
from sensitivity.models.config_files import config_folder, read_config
from sensitivity.models.model_index import ModelIndex
from sensitivity.models.picture_inputs import needs_picture, picture_arguments
from sensitivity.models.quantized_weights import describe_config
from sensitivity.shapes.call_arguments import SIZES
from sensitivity.shapes.denoiser_classes import USUAL_NAMES, find_denoisers
from sensitivity.shapes.families import families_in
from sensitivity.shapes.probing import Probe, probe
from sensitivity.spec.call_names import frames_in
from sensitivity.spec.hand_lists import Reasoned
from sensitivity.spec.prompts import PromptSection, general_pictures, general_videos
from sensitivity.spec.study_spec import SearchSection, StudySpec

KEPT = (
    *SIZES,
    "frame_rate",
    "num_inference_steps",
    "guidance_scale",
    "true_cfg_scale",
    "max_sequence_length",
)
"""Arguments of a pipeline's call that a derived study states."""
ROUTER = "*router*"
"""A glob for Linears that choose among experts; `shapes.experts` finds those of other names."""
ROUTES = "it chooses among experts: another choice is no small error"
"""Why they are always skipped."""
FEW_STEPS = re.compile("turbo|lightning|schnell|distill|lcm|hyper|sprint|klein", re.IGNORECASE)
"""Words in the names of distilled models."""
PIXELS_AT_ONCE = 4 * 1024 * 1024
"""What a search generates together: four pictures of 1024 x 1024, or fewer larger ones."""
MOST_AT_ONCE = 8
"""The most pictures that a search generates together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Derivation:
    """A derived study, or the one that was given if it was declared.

    Attributes:
        spec: the study.
        notes: what could not be derived, or should be checked; none for a declared study.
        heading: lines for the top of its TOML; none for a declared study.
    """

    spec: StudySpec
    notes: tuple[str, ...] = ()
    heading: tuple[str, ...] = ()


def derive_study(spec: StudySpec) -> StudySpec:
    """The study that `derive` gives, without its notes."""
    return derive(spec).spec


def derive(spec: StudySpec) -> Derivation:
    """Complete a bare study (`spec.bare`); any other is returned as it is.

    Raises:
        PipelineError: the config files cannot be had, they are no pipeline, it has no denoiser, or
            it needs something besides a prompt.
    """
    if not spec.bare:
        return Derivation(spec=spec)
    folder = config_folder(spec)  # a Hub id is looked up once
    known = spec.model_copy(update={"model": spec.model.model_copy(update={"config": folder})})
    index = ModelIndex.read(folder)
    pipeline, call = index.pipeline_call()
    _check_call(spec, pipeline, call)
    denoisers = find_denoisers(spec, index)
    component = next((name for name in USUAL_NAMES if name in denoisers), next(iter(denoisers)))
    config = read_config(folder / component / "config.json")
    settings = _settings(call, config) | spec.settings
    seen = probe(known, component, settings, call)
    notes = _notes(spec, index, denoisers, component, seen)
    first = (
        f"derived from the config files of {spec.model.hub or folder}; steps and guidance are the"
        f" defaults of {pipeline}: compare them with the model card"
    )
    return Derivation(
        spec=_study(spec, index, _alike(denoisers, component), seen),
        notes=notes,
        heading=(first, *notes),
    )


def _study(
    spec: StudySpec, index: ModelIndex, components: tuple[str, ...], seen: Probe
) -> StudySpec:
    """The study: what the user said, completed by what was seen."""
    order = dict.fromkeys((*KEPT, *seen.settings))
    settings = {key: seen.settings[key] for key in order if key in seen.settings}
    model = spec.model.model_copy(
        update={
            "component": components[0],
            "components": components if len(components) > 1 else (),
            "revision": spec.model.revision or index.commit,
            "vae_tiling": seen.needs_tiling or spec.model.vae_tiling,
        }
    )
    return StudySpec(
        name=spec.name,
        title=_title(index.pipeline_class().__name__, settings),
        model=model,
        settings=settings,
        prompts=_prompts(spec, is_video=seen.is_video),
        fidelity=spec.fidelity,
        search=_search(settings, seen.fqns, seen.routers, is_video=seen.is_video),
        pricing=spec.pricing,
    )


def _notes(
    spec: StudySpec,
    index: ModelIndex,
    denoisers: Mapping[str, type[nn.Module]],
    component: str,
    seen: Probe,
) -> tuple[str, ...]:
    """What a person should know about the derived study."""
    notes = []
    name = str(spec.model.hub or index.folder.name)
    if index.arguments.get("is_distilled") is True or FEW_STEPS.search(name):
        notes.append(
            f"steps and guidance are the defaults of {index.pipeline}; this model seems to be"
            " distilled, which may want few steps and no guidance"
        )
    alike = _alike(denoisers, component)
    quantized = {name: describe_config(index.folder / name) for name in alike}
    notes += [
        f"{name} is quantized already: {found}; shapes and prices are those of the model that it"
        " was made of, and a search needs that model"
        for name, found in quantized.items()
        if found
    ]
    if others := [name for name in denoisers if name not in alike]:
        notes.append(
            f"{', '.join(others)}: denoisers of another class, which are not searched;"
            " `model.component` chooses"
        )
    if seen.besides:
        notes.append(seen.besides)
    if seen.failure:
        if seen.ran:
            instead = "the settings say how it is called instead"
        else:
            instead = "none of the sizes that were tried does"
        notes.append(
            f"{index.pipeline} does not run without weights as it is called by default"
            f" ({seen.failure}): {instead}"
        )
    return tuple(notes)


def _alike(denoisers: Mapping[str, type[nn.Module]], component: str) -> tuple[str, ...]:
    """The component, and the other denoisers of its class."""
    cls = denoisers[component]
    return (component, *(x for x, kind in denoisers.items() if x != component and kind is cls))


def _check_call(spec: StudySpec, pipeline: str, call: Mapping[str, Any]) -> None:
    """Raise PipelineError for a pipeline that does not generate from a prompt alone."""
    needed = [
        name
        for name, default in call.items()
        if default is inspect.Parameter.empty and name not in ("prompt", "args", "kwargs")
    ]
    pictures = [name for name in needed if name in picture_arguments(call)]
    if pictures or ("prompt" not in call and picture_arguments(call)):
        reason = f"without a default: {', '.join(needed)}" if needed else "it takes no prompt"
        raise needs_picture(spec.name, pipeline, call, {}, reason)
    if "prompt" not in call:
        raise PipelineError(
            f"{spec.name}: {pipeline} takes no prompt; expected a pipeline of pictures or videos"
            " from text: name one"
        )
    if needed:
        raise PipelineError(
            f"{spec.name}: {pipeline} needs {', '.join(needed)} besides a prompt; expected a"
            " pipeline that needs text alone: name one"
        )


def _settings(call: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The call's own defaults that are numbers; texts no longer than the denoiser takes; and the
    negative prompt that a true CFG needs.

    Args:
        call: {argument of the pipeline's call: its default}.
        config: the denoiser's.
    """
    found = {
        key: call[key]
        for key in KEPT
        if type(call.get(key)) in (int, float) and math.isfinite(call[key])
    }
    limits = [config.get(key) for key in ("max_text_seq_length", "max_sequence_length")]
    if "max_sequence_length" in found:
        given = [limit for limit in limits if type(limit) is int]
        found["max_sequence_length"] = min([found["max_sequence_length"], *given])
    if found.get("true_cfg_scale", 0) > 1 and "negative_prompt" in call:
        found["negative_prompt"] = " "
    return found


def _prompts(spec: StudySpec, *, is_video: bool) -> PromptSection:
    """The study's own prompts, else general ones."""
    if "prompts" in spec.model_fields_set:
        return spec.prompts
    return general_videos() if is_video else general_pictures()


def _search(
    settings: Mapping[str, Any],
    fqns: Sequence[str],
    choosing: Collection[str],
    *,
    is_video: bool,
) -> SearchSection:
    """How Linears are grouped and skipped; `choosing` are those that choose among experts."""
    pixels = PIXELS_AT_ONCE
    if {"height", "width"} <= settings.keys():
        pixels = math.prod(settings.get(key, 1) for key in SIZES)
    by_name = expand([ROUTER], fqns).matched
    others = [pattern.pattern for pattern in compress(set(choosing) - by_name, fqns)]
    skipped = tuple(
        Reasoned(pattern=pattern, reason=ROUTES)
        for pattern in [*([ROUTER] if by_name else []), *others]
    )
    # Where blocks are inside of blocks, the outermost ones are depth bands already.
    is_nested = any(len(indices_of(block_of(fqn))) > 1 for fqn in fqns)
    return SearchSection(
        batch_size=1 if is_video else max(1, min(MOST_AT_ONCE, PIXELS_AT_ONCE // pixels)),
        depth_bands=1 if is_nested else SearchSection().depth_bands,
        fused=families_in(fqns),
        always_skip=skipped,
    )


def _title(pipeline: str, settings: Mapping[str, Any]) -> str:
    size = "the pipeline's own size"
    if {"height", "width"} <= settings.keys():
        size = f"{settings['width']} x {settings['height']}"
    count = frames_in(settings)
    frames = "" if count is None else f", {count} frames"
    steps = settings.get("num_inference_steps")
    in_steps = "" if steps is None else f", {steps} steps"
    return f"{pipeline}, {size}{frames}{in_steps}; derived from its config files"
