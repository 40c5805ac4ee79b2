"""Which shapes does a whole pipeline run have, when there are no weights?

`run_shapes`: the real pipeline code on meta tensors.

    run = run_shapes(resolve_spec("flux1-dev"))
    run.table.linears                       # 504 rows, calls of all 28 steps
    run.table.run.component("vae")          # what the rest of the pipeline does
    run.calls[0].kwargs                     # a denoiser's arguments, ready for `random_weights.random_component`

Method. `blueprint` builds the pipeline from its configs, `shape_mode` runs it. A component is run
once for each distinct signature of its arguments (shapes, dtypes, flags, and the values of masks);
a later call with a known signature gives fresh meta outputs and counts again, so that 50 steps cost
one. Linears are seen by the same hooks as in a real run; several denoisers of a study make one
table.

Conventions: numbers are for one whole pipeline call at the study's settings and
`pricing.batch_size`. `settings` of the table are the effective ones: what the pipeline drew, where
it rounds what it was asked. What it does not do: pipelines whose control flow depends on what a
network says.
"""

import inspect
import math
import re
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from typing import Any, Literal, get_args, get_origin

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sensitivity.errors import (
    ConfigMismatchError,
    MeasurementError,
    PipelineError,
    SensitivityError,
    SpecError,
)
from sensitivity.models.denoisers import joined
from sensitivity.models.entrances import entrances, reads_text
from sensitivity.models.hub import quiet
from sensitivity.models.media import drawn_in
from sensitivity.models.model_index import config_folder, no_component, pipeline_call
from sensitivity.models.shape_mode import ShapeMode, Tally, is_meta, tensors_in, to_meta
from sensitivity.models.skeleton import build_skeleton
from sensitivity.models.stand_in_tokenizer import PROMPT
from sensitivity.shapes.census import AttentionShape, ComponentCounts, RunCounts
from sensitivity.shapes.config_faults import contradiction
from sensitivity.shapes.recorder import LinearRecorder, record_linears
from sensitivity.shapes.table import ShapeTable
from sensitivity.spec.overrides import RunOptions, override_settings
from sensitivity.spec.study_spec import StudySpec

__all__ = ["DenoiserCall", "ShapeRun", "build_skeleton", "run_shapes", "with_options"]

OURS = ("self", "prompt", "generator", "output_type", "return_dict")
FLAG_NUMBERS = 2**16
SHAPE_WORDS = re.compile("shape|size|dimension|channels", re.IGNORECASE)  # in errors of shapes
SMALL_PIXELS = 64  # below it, an error of a shape is the size's fault
PER_PROMPT = ("num_images_per_prompt", "num_videos_per_prompt")
COUNTS = {  # {argument that is a count: the largest that is taken for one}
    "height": 2**16,
    "width": 2**16,
    "num_frames": 2**16,
    "num_inference_steps": 10**4,
    "max_sequence_length": 2**16,
    **dict.fromkeys(PER_PROMPT, 2**10),
}
SIZES = ("height", "width", "num_frames")
SHOWN = (
    *SIZES,
    "num_inference_steps",
    "guidance_scale",
    "true_cfg_scale",
    "max_sequence_length",
    "frame_rate",
    "negative_prompt",
)


@dataclass(frozen=True, kw_only=True)
class DenoiserCall:
    """A distinct signature of a component's forward: arguments as they came, real on the CPU where
    values are known, else meta.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    calls: int
    component: str


@dataclass(frozen=True, kw_only=True)
class ShapeRun:
    """What a run without weights gives.

    Attributes:
        table: the denoisers' Linears, or the component's, with the census of the whole run.
        calls: their calls.
        repeated_blocks: the class names of their repeated blocks.
        other_denoisers: names of denoisers of the same class whose Linears are not in the table.
        text_encoders: names of the components that are given nothing but token ids.
        coders: names of those that decode.
        pipeline_class: the pipeline's class.
        classes: {component: class} of the components whose Linears are in the table.
    """

    table: ShapeTable
    calls: tuple[DenoiserCall, ...]
    repeated_blocks: tuple[str, ...]
    other_denoisers: tuple[str, ...] = ()
    text_encoders: tuple[str, ...] = ()
    coders: tuple[str, ...] = ()
    pipeline_class: str = ""
    classes: Mapping[str, str] = field(default_factory=dict)


def with_options(spec: StudySpec, options: RunOptions) -> StudySpec:
    """The study with a command line's options.

    Raises UserError for values and arguments that its pipeline does not take.
    """
    name, call = pipeline_call(spec)
    return override_settings(spec, options, call, name)


def run_shapes(
    spec: StudySpec, *, component: str | None = None, batch_size: int | None = None
) -> ShapeRun:
    """Run the study's pipeline without weights.

    Args:
        spec: the study.
        component: whose Linears the table has; those of all of `model.denoisers` by default.
        batch_size: pictures in the run; `pricing.batch_size` by default.

    Raises:
        PipelineError, SpecError: no config files, no such component, or settings that the pipeline
            refuses.
        ConfigMismatchError: components' configs seem to contradict one another.
        MeasurementError: the pipeline cannot be run without weights; the message says how far it
            got.
    """
    names, batch = (
        (spec.model.denoisers if component is None else (component,)),
        batch_size or spec.pricing.batch_size,
    )
    pipe = build_skeleton(spec)
    modules = {key: part for key, part in pipe.components.items() if isinstance(part, nn.Module)}
    for name in names:
        if name not in modules:
            raise PipelineError(no_component(spec, type(pipe).__name__, name, list(modules)))
    studied = {name: modules[name] for name in names}
    call = _arguments(spec, pipe, batch)
    with quiet(), torch.no_grad(), record_linears(joined(studied)) as recorder, ShapeMode() as mode:
        run = _Run(mode, recorder, studied)
        for key, part in modules.items():
            run.watch(key, part)
        with _explained(spec, pipe, run), _asked_sizes(pipe) as asked:
            out = pipe(**call)
    settings = _effective(spec, pipe, asked, out)
    batch *= math.prod(int(spec.settings.get(key, 1)) for key in PER_PROMPT)
    table = recorder.table(model=spec.name, batch_size=batch, settings=settings)
    counts = RunCounts(components=tuple(run.counts(key, part) for key, part in modules.items()))
    calls = tuple(
        DenoiserCall(
            args=seen.args, kwargs=seen.kwargs, calls=seen.calls, component=seen.forward_of
        )
        for seen in run.seen
        if seen.forward_of in studied
    )
    blocks = tuple(
        dict.fromkeys(
            block
            for part in studied.values()
            for block in getattr(part, "_repeated_blocks", None) or ()
        )
    )
    alike = {type(part) for part in studied.values()} & {type(modules.get(spec.model.component))}
    others = tuple(
        key for key, part in modules.items() if type(part) in alike and key not in studied
    )
    return ShapeRun(
        table=replace(table, run=counts),
        calls=calls,
        repeated_blocks=blocks,
        other_denoisers=others,
        text_encoders=tuple(key for key, read in run.text_only.items() if read),
        coders=tuple(key for key, part in modules.items() if hasattr(part, "decode")),
        pipeline_class=type(pipe).__name__,
        classes={name: type(part).__name__ for name, part in studied.items()},
    )


@dataclass(kw_only=True)
class _Seen:
    """A signature that was run: what it did, and what it gave."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    forward_of: str | None
    outputs: Any = None
    counted: Tally
    rows: dict[str, Counter[int]]
    calls: int = 1


class _Run:
    """Stands between a pipeline and its components: runs new signatures, repeats known ones."""

    def __init__(
        self, mode: ShapeMode, recorder: LinearRecorder, profiled: Collection[str]
    ) -> None:
        self.mode, self.recorder, self.profiled = mode, recorder, profiled
        self.seen: list[_Seen] = []
        self.known: dict[Any, _Seen] = {}
        self.calls: Counter[str] = Counter()
        self.text_only: dict[str, bool] = {}
        self.latest: dict[str, None] = {}  # components by their latest calls
        self.failed_inside = False  # a component was entered and not left

    def watch(self, component: str, part: nn.Module) -> None:
        """Put every way into the component through `_enter`: its methods, and the forwards of its
        parts that a pipeline may call alone.
        """
        for _, child, method in entrances(part):
            self._wrap(component, child, method, whole=method == "forward" and child is part)

    def _wrap(self, component: str, part: nn.Module, method: str, whole: bool = False) -> None:
        original = getattr(part, method)
        entry = (component, id(part), method)
        setattr(
            part,
            method,
            wraps(original)(partial(self._enter, entry, original, component if whole else None)),
        )

    def _enter(
        self,
        entry: tuple[str, int, str],
        original: Callable[..., Any],
        forward_of: str | None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        component = entry[0]
        if self.mode.component is not None:
            return original(*args, **kwargs)
        self.calls[component] += 1
        self.text_only[component] = self.text_only.get(component, True) and reads_text(
            tensors_in([args, kwargs])
        )
        self.latest.pop(component, None)
        self.latest[component] = None
        signature = _signature((args, kwargs))
        key = (entry, signature)
        if signature is not None and key in self.known:
            return self._repeat(component, self.known[key])
        before = Counter(self.mode.tally.get(component, Counter()))
        rows = self.recorder.snapshot() if component in self.profiled else {}
        seen = _Seen(args=args, kwargs=kwargs, forward_of=forward_of, counted=Counter(), rows={})
        self.seen.append(seen)
        self.failed_inside = True
        with self.mode.counting(component, (args, kwargs)):
            out = original(*args, **kwargs)
        self.failed_inside = False
        seen.counted = self.mode.tally[component] - before
        seen.rows = self.recorder.since(rows) if component in self.profiled else {}
        seen.outputs = pytree.tree_map(_again, out)
        if signature is not None:
            self.known[key] = seen
        return out

    def _repeat(self, component: str, seen: _Seen) -> Any:
        seen.calls += 1
        self.mode.tally[component].update(seen.counted)
        self.recorder.add(seen.rows)
        return pytree.tree_map(_again, seen.outputs)

    def counts(self, component: str, part: nn.Module) -> ComponentCounts:
        """The census of a component."""
        tally = self.mode.tally.get(component, Counter())
        shapes = [
            AttentionShape(
                batch=key[1],
                heads=key[2],
                q_len=key[3],
                kv_len=key[4],
                head_dim=key[5],
                calls=calls,
            )
            for key, calls in tally.items()
            if isinstance(key, tuple)
        ]
        numbers = {key: value for key, value in tally.items() if isinstance(key, str)}
        return ComponentCounts(
            component=component,
            calls=self.calls[component],
            attention=tuple(sorted(shapes, key=lambda shape: -shape.flops)),
            **numbers,
            weight_bytes=sum(p.numel() * p.element_size() for p in part.parameters()),
            peak_activation_bytes=self.mode.peak_bytes[component],
        )

    @property
    def progress(self) -> str:
        """How far the run got, as a clause."""
        done = ", ".join(f"{name} {calls} x" for name, calls in self.calls.items()) or "none"
        return f"components called: {done}; {self.recorder.progress}"


def _again(x: Any) -> Any:
    """A fresh tensor like x: meta, or with the same values."""
    if not isinstance(x, Tensor):
        return x
    return to_meta(x) if is_meta(x) else x.clone()


def _signature(value: Any) -> Any:
    """What two calls must share to do the same work; None where that cannot be told.

    Floats never matter; values of masks do, not of timesteps.
    """
    if isinstance(value, Tensor):
        small = (
            not is_meta(value)
            and value.ndim > 1
            and value.numel() <= FLAG_NUMBERS
            and not (value.is_floating_point() or value.is_complex())
        )
        return (
            "tensor",
            tuple(value.shape),
            value.dtype,
            value.numpy().tobytes() if small else None,
        )
    if isinstance(value, float):
        return "float"
    if value is None or isinstance(value, bool | int | str | torch.dtype | torch.device):
        return (type(value).__name__, value)
    if isinstance(value, dict):
        value = tuple(value.items())
    if isinstance(value, list | tuple):
        parts = tuple(_signature(part) for part in value)
        return None if any(part is None for part in parts) else (type(value).__name__, parts)
    return None


def _arguments(spec: StudySpec, pipe: Any, batch: int) -> dict[str, Any]:
    """The pipeline call's arguments: the study's settings, a prompt for each picture, tensors as
    output.
    """
    name, accepted = type(pipe).__name__, inspect.signature(type(pipe).__call__).parameters
    allowed = [key for key in accepted if key not in OURS]
    unknown = [key for key in spec.settings if key not in allowed]
    if unknown:
        raise SpecError(
            f"{spec.name}: settings {', '.join(unknown)} are no arguments of {name} that a study"
            f" sets; allowed are {', '.join(allowed)}: correct `[settings]` in the study TOML, or"
            " --set"
        )
    if "prompt" not in accepted:
        raise PipelineError(
            f"{name} takes no prompt; allowed are pipelines that draw from text: name one"
        )
    for key, value in spec.settings.items():
        _check_setting(spec, key, value, accepted[key].annotation)
    call: dict[str, Any] = {"prompt": [PROMPT] * batch, **spec.settings}
    if isinstance(call.get("negative_prompt"), str):
        call["negative_prompt"] = [call["negative_prompt"]] * batch
    ours = {"output_type": "pt", "generator": torch.Generator().manual_seed(0)}
    return call | {key: value for key, value in ours.items() if key in accepted}


def _check_setting(spec: StudySpec, key: str, value: object, annotation: Any) -> None:
    """Raise SpecError for a value that the argument cannot have: a count that is none, or another
    type than the pipeline annotates.
    """
    most = COUNTS.get(key)
    if most is not None:
        if type(value) is int and 1 <= value <= most:
            return
        allowed = f"a whole number from 1 to {most}"
    else:
        kinds = {annotation, *get_args(annotation)}
        named = kinds & {bool, int, float, str}
        vague = (
            isinstance(annotation, str)
            or bool(kinds & {Any, inspect.Parameter.empty})
            or any(get_origin(x) is Literal for x in kinds)
        )
        if vague or bool(named & ({int, float} if type(value) in (int, float) else {type(value)})):
            return
        allowed = f"what the pipeline annotates, {inspect.formatannotation(annotation)}"
    raise SpecError(
        f"{spec.name}: {key} is {value!r}; allowed is {allowed}: correct `[settings]` in the study"
        " TOML, or the option of the command"
    )


@contextmanager
def _explained(spec: StudySpec, pipe: Any, run: _Run) -> Iterator[None]:
    """Say of each error whether the settings are to blame or the lack of weights."""
    try:
        yield
    except SensitivityError:
        raise
    except Exception as error:
        name = type(pipe).__name__
        reason = (
            f"{type(error).__name__}:"
            f" {(str(error).strip().splitlines() or ['no reason given'])[0][:300]}"
        )
        frames = traceback.extract_tb(error.__traceback__)
        absent = [key for key, part in pipe.components.items() if part is None]
        if (
            absent
            and isinstance(error, AttributeError)
            and "NoneType" in str(error)
            and not run.failed_inside
        ):
            raise PipelineError(
                f"{name} does not run without one of {', '.join(absent)}, for which"
                f" model_index.json of {config_folder(spec)} names no class; allowed is a folder"
                f" with the config of each component that a run uses ({reason}): add it"
            ) from error
        small = any(
            isinstance(size := spec.settings.get(key), int) and size < SMALL_PIXELS
            for key in ("height", "width")
        )
        ours = (
            isinstance(error, ArithmeticError | LookupError | TypeError | ValueError)
            and not run.failed_inside
        )
        refused = small or ours or any(frame.name == "check_inputs" for frame in frames)
        if refused:
            raise PipelineError(
                f"{name} does not run with the settings {spec.settings} ({reason}); allowed is what"
                " its call accepts: correct `[settings]` in a study TOML or the options of the"
                " command"
            ) from error
        if (
            isinstance(error, RuntimeError | ValueError)
            and SHAPE_WORDS.search(reason)
            and run.latest
        ):
            modules = {
                key: part for key, part in pipe.components.items() if isinstance(part, nn.Module)
            }
            raise ConfigMismatchError(
                f"{name}:"
                f" {contradiction(spec, modules, list(run.latest), run.failed_inside, reason)}"
            ) from error
        where = f"{frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].lineno}" if frames else "?"
        raise MeasurementError(
            f"{name} could not be run without weights: {reason} at {where}; {run.progress}. Profile"
            " the loaded model with `sensitivity.profile_module`, and report the pipeline"
        ) from error


@contextmanager
def _asked_sizes(pipe: Any) -> Iterator[dict[str, Any]]:
    """What the pipeline asked of itself, defaults filled in: the sizes that its own `check_inputs`
    is given.
    """
    asked: dict[str, Any] = {}
    check = getattr(pipe, "check_inputs", None)
    if check is not None:

        def note(*args: Any, **kwargs: Any) -> Any:
            bound = inspect.signature(check).bind(*args, **kwargs).arguments
            asked.update({key: bound[key] for key in SIZES if isinstance(bound.get(key), int)})
            return check(*args, **kwargs)

        pipe.check_inputs = note
    try:
        yield asked
    finally:
        if check is not None:
            del pipe.check_inputs


def _effective(spec: StudySpec, pipe: Any, asked: dict[str, Any], out: Any) -> dict[str, object]:
    """The settings that the run had: the call's, its defaults, and the size of what it drew.

    Raises PipelineError where it drew nothing.
    """
    defaults = {
        key: p.default
        for key, p in inspect.signature(type(pipe).__call__).parameters.items()
        if key in SHOWN
    }
    settings: dict[str, object] = {
        key: value for key, value in defaults.items() if isinstance(value, int | float | str)
    }
    settings |= asked | spec.settings | _drawn(out)
    empty = [f"{key} {settings[key]}" for key in SIZES if settings.get(key) == 0]
    if empty:
        raise PipelineError(
            f"{type(pipe).__name__} draws nothing with the settings {spec.settings}:"
            f" {', '.join(empty)}; allowed are sizes of at least one token: raise them"
        )
    tokens = {
        "prompt_tokens": spec.pricing.prompt_tokens,
        "negative_prompt_tokens": spec.pricing.negative_prompt_tokens,
    }
    return {
        key: settings[key]
        for key in (*[k for k in SHOWN if k in settings], *[k for k in settings if k not in SHOWN])
    } | tokens


def _drawn(out: Any) -> dict[str, int]:
    """Height, width and frames of what a pipeline returns, where that is a tensor of pictures (B,
    C, H, W) or videos (B, F, C, H, W).
    """
    pictures = next((shown for shown in drawn_in(out) if shown is not None), None)
    if (
        not isinstance(pictures, Tensor)
        or pictures.ndim not in (4, 5)
        or pictures.shape[-3] not in (1, 3, 4)
    ):
        return {}
    size = {"height": pictures.shape[-2], "width": pictures.shape[-1]}
    return size | ({"num_frames": pictures.shape[1]} if pictures.ndim == 5 else {})
