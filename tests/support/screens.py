"""What commands show of the models, of prices and of lists, from records that never change.

`SCREENS` has a function for each command that prints its tables on a console. No model is loaded,
and no price of the package is asked for: refitting the prices moves no golden file.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import cache

from rich.console import Console

from sensitivity.cli.render.audit import audit_report, summary_line
from sensitivity.cli.render.device import devices_table, target_lines
from sensitivity.cli.render.doctor import doctor_lines
from sensitivity.cli.render.measured import measured_table
from sensitivity.cli.render.plan import plan_tables
from sensitivity.cli.render.priced import compare_table, latency_table
from sensitivity.cli.render.sensitivities import heatmap, sensitivity_table, tail_sentence
from sensitivity.cli.render.shapes import profile_table
from sensitivity.cli.render.studies import keys_table, studies_table
from sensitivity.cli.screen import print_line
from sensitivity.core.format_name import FormatName
from sensitivity.formats.doctor import Examined
from sensitivity.latency import LatencyModel
from sensitivity.latency.estimate import LatencyEstimate
from sensitivity.latency.memory import MemoryEstimate
from sensitivity.latency.pricer import PricedList
from sensitivity.latency.targets.target_file import TargetFile
from sensitivity.latency.targets.target_list import ListedTarget
from sensitivity.models.local_copies import Copies
from sensitivity.search.calibration.ranking import Sensitivity
from sensitivity.shapes.table import ShapeTable
from sensitivity.spec.loading import load_spec
from sensitivity.spec.shipped import list_studies
from sensitivity.spec.study_keys import effective_keys
from sensitivity.workflows.audit.model import audited_model
from sensitivity.workflows.machine_checks import Check, State
from sensitivity.workflows.measured_runs import MeasuredRuns
from sensitivity.workflows.plan import MachineTime, SearchPlan
from sensitivity.workflows.plan_done import Done
from sensitivity.workflows.sizing import Part, SizeEstimate, Stage

from support.audits import audited
from support.latency import BF16, MXFP8, NVFP4, flux, flux_published_list
from support.status_screens import status_of_many, status_of_the_killed
from support.targets import target_data
from support.timed import end_times
from support.tiny_flux_recipes import SPEC

Draw = Callable[[Console], None]


class RoundNumbers(LatencyModel):
    """A toy: a product takes a fixed time for each FLOP, and quantizing one for each input."""

    target, source, compile_mode, covers = "toy", "predicted", "reduce-overhead", "round numbers"

    def linear_us(self, *, m: int, k: int, n: int, format: FormatName) -> float:
        product = 2 * m * k * n / 1e9 + 5
        return product if format is BF16 else product / 3 + m * k / 1e6 + 4

    def why(self, *, m: int, k: int, n: int, format: FormatName, compiled: bool = True) -> str:  # noqa: ARG002
        if format is BF16:
            return ""
        part = (m * k / 1e6 + 4) / (2 * m * k * n / 1e9 + 5)
        return f"arithmetic: GEMM 3.0x; quantizing takes {part:.0%} of bf16's time (launches)"

    def rest_s(self, table: ShapeTable) -> float:  # noqa: ARG002
        return 1.5


@cache
def flux_table() -> ShapeTable:
    """FLUX.1-dev's Linears, with two that were never called."""
    return dataclasses.replace(
        flux(1),
        model="flux1-dev",
        settings={"height": 1024, "width": 1024, "num_inference_steps": 28},
        uncalled=("time_text_embed.spare.linear_1", "time_text_embed.spare.linear_2"),
    )


def estimate(formats: Mapping[str, FormatName]) -> LatencyEstimate:
    """The toy price of a list on FLUX.1-dev, with an interval and memory."""
    priced = RoundNumbers().estimate(flux_table(), formats)
    memory = MemoryEstimate(
        bf16_linear_bytes=23_800_000_000,
        quantized_linear_bytes=6_900_000_000,
        other_weight_bytes=9_700_000_000,
        activation_bytes=1_200_000_000,
    )
    return dataclasses.replace(priced, interval90=(1.21, 1.57), memory=memory)


def lists() -> tuple[PricedList, ...]:
    """Nothing quantized, everything, and a published list of which one pattern is dead."""
    everything = dict.fromkeys((x.fqn for x in flux_table().linears), NVFP4)
    return tuple(
        PricedList(name=name, formats=formats, estimate=estimate(formats), dead=dead)
        for name, formats, dead in (
            ("none", {}, ()),
            ("all nvfp4", everything, ()),
            (
                "torchao's list for FLUX.1-dev",
                flux_published_list(flux_table(), NVFP4),
                ("no.such.*",),
            ),
        )
    )


def models(console: Console) -> None:
    """`models`: two studies that were downloaded, others of which there are configs only."""
    specs = {name: load_spec(path) for name, path in list_studies().items()}
    whole = {"sdxl", "tiny-flux"}
    here = {name: Copies.WEIGHTS if name in whole else Copies.CONFIGS for name in specs}
    console.print(studies_table(specs, here))


def models_show(console: Console) -> None:
    """`models show ltx2 --set settings.height=256`."""
    spec = load_spec(list_studies()["ltx2"])
    keys = effective_keys(spec, derived=False, set_keys={"settings.height"})
    console.print(keys_table(key for key in keys if key.key != "model.config"))  # a path


def doctor(console: Console) -> None:
    """`doctor`: one format is native, one emulated, and a folder is too small."""
    stamp = {"device": "NVIDIA H100 80GB HBM3", "python": "3.11.7", "torch": "2.15.0"}
    formats = {
        FormatName.FP8: Examined(reason=None, missing={}),
        FormatName.NVFP4: Examined(
            reason="nvfp4 runs natively on compute capability 10.0 or higher; this is 9.0",
            missing={},
        ),
    }
    judges = {"psnr": "", "flip": "flip-evaluator is not installed"}
    checks = (
        Check(name="GPU", state=State.OK, found="NVIDIA H100 80GB HBM3 (9.0); driver 580"),
        Check(name="disk, models", state=State.FAULT, found="2 GB free at /data", fix="free some"),
        Check(name="Hub token", state=State.NOTE, found="none", fix="run `hf auth login`"),
    )
    for line, style in doctor_lines(stamp, formats, judges, checks, mslk=None):
        print_line(console, line, style=style)


def device(console: Console) -> None:
    """`device`: two GPUs."""
    shared = {"memory_bytes": 180_000_000_000, "sm_count": 148, "sources": ()}
    b200 = ListedTarget(
        name="b200",
        peaks_flops_per_s={
            "bf16": 2.25e15,
            "fp8": 4.5e15,
            "mxfp8": 4.5e15,
            "nvfp4": 9e15,
            "int8": 4.5e15,
        },
        bandwidth_bytes_per_s=7.67e12,
        capability="10.0",
        has_own_fit=True,
        measured_shapes=0,
        **shared,  # type: ignore[arg-type]
    )
    h100 = dataclasses.replace(
        b200,
        name="h100",
        peaks_flops_per_s={"bf16": 9.89e14, "fp8": 1.979e15, "int8": 1.979e15},
        capability="9.0",
        has_own_fit=False,
        measured_shapes=82,
    )
    console.print(devices_table((b200, h100)))


def device_measure(console: Console) -> None:
    """`device measure`, at its end."""
    data = target_data(shapes=[], minutes=9.7, notes=["torch's own fp8 product was timed"])
    for line in target_lines(TargetFile.model_validate(data)):
        print_line(console, line)


def profile(console: Console) -> None:
    """`profile --model flux1-dev`."""
    console.print(profile_table(flux_table()))


def latency(console: Console) -> None:
    """`latency --compare`: shapes of one list, then all lists."""
    priced = lists()
    console.print(latency_table(priced[1].estimate))
    console.print()
    console.print(compare_table(priced))


def latency_measured(console: Console) -> None:
    """`latency --measure run`: three lists that ran and one that failed."""
    formats = {name: dict.fromkeys(("a", "b"), NVFP4) for name in ("all nvfp4", "rule of thumb")}
    runs = end_times(formats, {"rule of thumb": "a kernel refused K = 12288, N = 3072"}).runs
    measured = MeasuredRuns(
        target="h200",
        runtime="torchao-graphs",
        compile_mode="default",
        weights="pretrained",
        covers="the whole pipeline call",
        table=flux_table(),
        runs=runs,
        environment={"device": "NVIDIA H200"},
    )
    console.print(measured_table(measured))


def calibrate(console: Console) -> None:
    """`calibrate`: the groups that matter most, a heatmap, the long tail."""
    fqns = tuple(
        f"transformer_blocks.{i}.{role}" for i in range(32) for role in ("attn.to_q", "ff.net.2")
    )
    errors = [0.001 * (1 + (7 * i) % 23) for i in range(len(fqns))]
    total = sum(error**2 for error in errors)
    rows = [
        Sensitivity(
            group=fqn,
            fqns=(fqn,),
            format=NVFP4,
            error=error,
            share=error**2 / total,
            saved_s=1e-4 * (i % 5 - 1),
        )
        for i, (fqn, error) in enumerate(zip(fqns, errors, strict=True))
    ]
    rows.sort(key=lambda row: -row.share)
    console.print(sensitivity_table(rows, title="layer sensitivities of flux1-dev", most=8))
    console.print(heatmap(rows, (*fqns, "proj_out"), NVFP4, width=console.width))
    print_line(console, tail_sentence(rows, NVFP4))


def _plan(**more: object) -> SearchPlan:
    stages = tuple(
        Stage(
            name=name,
            parts=tuple(Part(name=part, nbytes=size * 10**9) for part, size in parts.items()),
        )
        for name, parts in (
            ("text", {"text_encoder": 0.2, "text_encoder_2": 9.5, "activations": 0.4}),
            ("denoising", {"transformer": 23.8, "its copy": 23.8, "activations": 8.2}),
            ("decoding", {"vae": 0.2, "activations": 12.1}),
        )
    )
    fields = {
        "model": "flux1-dev",
        "prompts": None,
        "sizes": SizeEstimate(
            device="cuda", machine="h100", batch_size=4, stages=stages, free_bytes=48 * 10**9
        ),
        "pictures": 10,
        "held_out": 24,
        "budget": 50,
        "picture_s": 1.9,
        "trial_s": 31.4,
        "steps_s": {"references": 65.0, "calibration": 410.0, "50 trials": 1570.0},
        "source": "predicted for h100",
        "references_bytes": 52_000_000,
        "database_bytes": 1_900_000,
    }
    return SearchPlan(**fields | more)  # type: ignore[arg-type]


def search_dry_run(console: Console) -> None:
    """`search --dry-run --on h100`, where it does not fit."""
    machines = (MachineTime(name="b200", total_s=2_700.0), MachineTime(name="h200", total_s=7_740))
    helps = (
        "`batch_size = 2` under [search] in a study TOML fits",
        "a GPU with more memory (b200, gb200, b300, h200)",
    )
    console.print(plan_tables(_plan(machine="h100", would_help=helps, machines=machines)))


def search_dry_run_here(console: Console) -> None:
    """`search --dry-run` of a search that has begun."""
    sizes = SizeEstimate(device="cpu", batch_size=4, stages=_plan().sizes.stages, free_bytes=None)
    steps = {"layer sensitivities": 0.0, "38 trials": 1190.0}
    done = Done(study="flux1-dev-nvfp4-b200-1a2b3c4d", trials=12, baselines=5)
    console.print(plan_tables(_plan(sizes=sizes, steps_s=steps, done=done)))


@cache
def an_audit() -> object:
    """A list with an entry that hits too much and one that hits nothing, at toy prices."""
    model = audited_model(SPEC, latency=lambda *_: RoundNumbers(), formats=(NVFP4, MXFP8))
    return audited(model, "proj_out\nno_such_layer\ntransformer_blocks.1.attn\n")


def audit(console: Console) -> None:
    """`audit`."""
    found = an_audit()
    console.print(audit_report(found))  # type: ignore[arg-type]
    print_line(console, f"{summary_line(found)}: exits with 1 (--fail-on error)")  # type: ignore[arg-type]


SCREENS: dict[str, Draw] = {
    "models": models,
    "models-show": models_show,
    "doctor": doctor,
    "device": device,
    "device-measure": device_measure,
    "profile": profile,
    "latency": latency,
    "latency-measured": latency_measured,
    "calibrate": calibrate,
    "search-dry-run": search_dry_run,
    "search-dry-run-here": search_dry_run_here,
    "status-killed": status_of_the_killed,
    "status-many": status_of_many,
    "audit": audit,
}
"""{command: prints what it shows}"""
