"""Which runs does `foresight.py` predict and measure? Models, batches, runtimes and skip-lists.

A case is one model's denoiser call at a batch size, in a runtime, with a skip-list. Everything here
is decided without prices, so that a prediction and a measurement made weeks apart mean the same:
each list has a fingerprint of what it quantizes.

    model = prepare("sdxl", batch=1, target="h100")
    model.table                          # shapes of one denoiser call
    model.lists["random roles 1"]        # the FQNs that it quantizes

Models are the studies that ship, but for tiny-flux, and those in `models/`, config files alone.
Where a study guides by a second forward with another number of text tokens, the first one alone is
taken (`ONE_FORWARD`): one call of the denoiser is the unit.

Lists. `none`, `all` (what the format takes and no known kernel of the target refuses), `rule of
thumb` and `published` as the study states them, and three random ones. `random roles` quantize each
role of a block with probability 1/2, the same in every block and nothing outside blocks; `random
blocks` quantizes each whole block with probability 1/2. So no list has more distinct blocks of a
class than torch compiles.
"""

import dataclasses
import hashlib
import json
import random
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sensitivity.core.format_name import FormatName
from sensitivity.core.fqns import block_of
from sensitivity.formats.registry import get_format
from sensitivity.latency.devices import Device
from sensitivity.latency.estimate import LatencyEstimate
from sensitivity.latency.predicted import PredictedLatency
from sensitivity.latency.refusals import refusal_of
from sensitivity.latency.runtimes import get_runtime
from sensitivity.latency.shape_times import LinearShape
from sensitivity.shapes.by_hand import published_list, rule_of_thumb
from sensitivity.shapes.census import RunCounts
from sensitivity.shapes.run import run_shapes
from sensitivity.shapes.shape_run import DenoiserCall, ShapeRun
from sensitivity.shapes.table import LinearProfile, ShapeTable
from sensitivity.spec.loading import resolve_spec
from sensitivity.spec.study_spec import StudySpec

FORMAT = FormatName.FP8
FOLDER = Path(__file__).parent / "models"
MODELS = (
    "flux1-dev",
    "z-image-turbo",
    "sd3.5-large",
    "sdxl",
    "qwen-image",
    "pixart-sigma",
    "flux1-schnell",
    "chroma1-hd",
    "wan2.1-1.3b",
    "sana-sprint",
    "auraflow",
    "cogview4-6b",
    "lumina2",
    "sd3.5-medium",
    "cogvideox-5b",
    "ltx2",
    "wan2.2",
    "flux2-dev",
)
"""In the order in which they are measured."""
ONE_FORWARD: Mapping[str, Mapping[str, Any]] = {
    "qwen-image": {"true_cfg_scale": 1.0},
    "lumina2": {"guidance_scale": 1.0},
}
"""Settings that leave out a second forward of other shapes."""
BATCHES = (1, 4)
LONG = ("wan2.2", "wan2.1-1.3b", "ltx2", "cogvideox-5b")
"""Videos: at batch 4 a call takes seconds, so they are measured at batch 1 alone."""
RUNTIMES = (
    "torchao-graphs",
    "torchao-compiled",
    "torchao-step-graph",
    "torchao-eager",
    "torchao-graphs-plain",
)
BOUNDS = ("none", "all", "rule of thumb")
RANDOM = ("random roles 1", "random roles 2", "random blocks 3")
HOST_PART = 0.02
"""Of a call's time: if the GPU waits longer for the host, the host is said to be the limit."""
SHALLOW_KEYS = (
    "n_layers",
    "num_layers",
    "num_single_layers",
    "num_mmdit_layers",
    "num_single_dit_layers",
)
DEPTH = 3


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """One model at one batch size.

    Attributes:
        name: Its name in `MODELS`.
        spec: Its study.
        batch: Pictures or videos in a call.
        run: The run without weights.
        table: The shapes of one denoiser call, and the census of the denoiser alone.
        call: What the denoiser is called with.
        lists: {skip-list: FQNs that it quantizes}.
        refused: {FQN: reason} of Linears that kernels of the target refuse; bf16 in every list.
    """

    name: str
    spec: StudySpec
    batch: int
    run: ShapeRun
    table: ShapeTable
    call: DenoiserCall
    lists: Mapping[str, frozenset[str]]
    refused: Mapping[str, str]

    def formats(self, name: str) -> dict[str, FormatName]:
        """{FQN: format} of what a list quantizes."""
        return dict.fromkeys(sorted(self.lists[name]), FORMAT)

    def fingerprint(self, name: str) -> str:
        """What a list quantizes, as sixteen hexadecimal digits."""
        return hashlib.sha256("\n".join(sorted(self.lists[name])).encode()).hexdigest()[:16]


def label(name: str) -> str:
    """What a model is called in results: a TOML's name without its folder."""
    return Path(name).stem if name.endswith(".toml") else name


def study_of(name: str) -> StudySpec:
    """The study of a model in `MODELS`, or of a TOML, reduced to one forward."""
    ours = FOLDER / f"{name}.toml"
    spec = resolve_spec(str(ours) if ours.is_file() else name)
    changes = ONE_FORWARD.get(name, {})
    return spec.model_copy(update={"settings": {**spec.settings, **changes}}) if changes else spec


def shallow(spec: StudySpec, folder: Path) -> StudySpec:
    """The study with a denoiser of at most `DEPTH` blocks of a kind; its configs go to `folder`."""
    configs = spec.model.config or spec.model.path
    assert configs is not None
    shutil.copytree(configs, folder, dirs_exist_ok=True)
    path = folder / spec.model.component / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for key in SHALLOW_KEYS:
        if key in config:
            config[key] = min(config[key], DEPTH)
    if config.get("dual_attention_layers"):
        config["dual_attention_layers"] = [0]
    path.write_text(json.dumps(config), encoding="utf-8")
    field = "config" if spec.model.config else "path"
    return spec.model_copy(update={"model": spec.model.model_copy(update={field: folder})})


def prepare(name: str, *, batch: int, target: str, spec: StudySpec | None = None) -> Prepared:
    """Run a model without weights, and decide its lists.

    Args:
        name: One of `MODELS`, or what `--model` of the tool takes.
        batch: Pictures in a call.
        target: The GPU whose refusals count.
        spec: The study, if it is not the model's own.
    """
    spec = spec or study_of(name)
    run = run_shapes(spec, component=spec.model.component, batch_size=batch)
    if len(run.calls) != 1:
        raise ValueError(f"{name} has {len(run.calls)} distinct calls; see ONE_FORWARD")
    table = one_call(run, spec.model.component)
    refused = refusals(table, target)
    return Prepared(
        name=label(name),
        spec=spec,
        batch=batch,
        run=run,
        table=table,
        call=run.calls[0],
        lists=lists_of(name, table, spec, refused),
        refused=refused,
    )


def one_call(run: ShapeRun, component: str) -> ShapeTable:
    """The run's table for one of its equal denoiser calls, with the census of the denoiser."""
    assert run.table.run is not None
    calls = run.calls[0].calls
    counts = run.table.run.component(component)
    products = ("linear_flops", "conv_flops", "matmul_flops")
    numbers = (*products, "calls", "eager_bytes", "kernels", "region_kernels")
    attention = tuple(
        shape.model_copy(update={"calls": max(1, shape.calls // calls)})
        for shape in counts.attention
    )
    counts = counts.model_copy(
        update={key: getattr(counts, key) // calls for key in numbers} | {"attention": attention}
    )
    linears = tuple(
        dataclasses.replace(
            linear,
            calls=sum(max(1, times // calls) for _, times in linear.m_values),
            m_values=tuple((m, max(1, times // calls)) for m, times in linear.m_values),
        )
        for linear in run.table.linears
    )
    return dataclasses.replace(run.table, linears=linears, run=RunCounts(components=(counts,)))


def refusals(table: ShapeTable, target: str) -> dict[str, str]:
    """{FQN: reason} of Linears that kernels of the target are known to refuse."""
    found: dict[str, str] = {}
    for linear in table.linears:
        for m, _ in linear.m_values:
            reason = refusal_of(
                target, m=m, k=linear.k, n=linear.n, bias=linear.bias, format=FORMAT
            )
            if reason is not None:
                found.setdefault(linear.fqn, reason)
    return found


def lists_of(
    name: str, table: ShapeTable, spec: StudySpec, refused: Collection[str]
) -> dict[str, frozenset[str]]:
    """{skip-list: FQNs that it quantizes}."""
    refusal = get_format(FORMAT).refusal
    able = frozenset(
        x.fqn
        for x in table.linears
        if x.fqn not in refused and refusal(k=x.k, n=x.n, dtype=getattr(torch, x.dtype)) is None
    )
    lists = {"none": frozenset[str](), "all": able}
    lists["rule of thumb"] = able & rule_of_thumb(table, spec)
    if spec.published:
        lists["published"] = able & published_list(table, spec.published[0])
    inside = [x for x in table.linears if block_of(x.fqn) and x.fqn in able]
    for one in RANDOM:
        kind, number = one.rsplit(" ", 1)
        part = random_roles if kind == "random roles" else random_blocks
        lists[one] = part(inside, table, random.Random(f"{label(name)} {number}"))
    return lists


def random_roles(
    linears: Collection[LinearProfile], table: ShapeTable, rng: random.Random
) -> frozenset[str]:
    """Each role with probability 1/2, the same in every block. What reads one input is one role."""
    suffix = {x.fqn: x.fqn.removeprefix(f"{block_of(x.fqn)}.") for x in linears}
    role = {fqn: (name,) for fqn, name in suffix.items()}
    for group in table.shared_inputs:
        members = [fqn for fqn in group if fqn in suffix]
        together = tuple(sorted({suffix[fqn] for fqn in members}))
        role |= dict.fromkeys(members, together)
    chosen = {one for one in sorted(set(role.values())) if rng.random() < 0.5}
    return frozenset(fqn for fqn, one in role.items() if one in chosen)


def random_blocks(
    linears: Collection[LinearProfile], table: ShapeTable, rng: random.Random
) -> frozenset[str]:
    """Each block with probability 1/2."""
    del table
    blocks = dict.fromkeys(block_of(x.fqn) for x in linears)
    chosen = {block for block in blocks if rng.random() < 0.5}
    return frozenset(x.fqn for x in linears if block_of(x.fqn) in chosen)


# --- prices --------------------------------------------------------------------------------------


def predictor(device: Device, runtime: str) -> PredictedLatency:
    """The model that predicts a device in a runtime."""
    return PredictedLatency(device, runtime=get_runtime(runtime))


def numbers_of(found: LatencyEstimate) -> dict[str, Any]:
    """What a case keeps of a price."""
    interval, host = found.interval90, found.host
    numbers: dict[str, Any] = {
        "bf16_s": found.bf16_s,
        "seconds": found.quantized_s,
        "speedup": found.speedup,
        "interval90": None if interval is None else list(interval),
    }
    if host is not None:
        lost = host.lost_s / found.quantized_s
        numbers |= {"host_s": host.quantized_s, "host_limited": lost > HOST_PART}
    return numbers


def refused_shape(shape: LinearShape, target: str) -> bool:
    """Whether a kernel of the target is known to refuse a shape."""
    reason = refusal_of(
        target, m=shape.m, k=shape.k, n=shape.n, bias=shape.bias, format=shape.format
    )
    return reason is not None
