"""What commands show of searches and recipes, from a kept recipe and records that never change.

The recipe beside the golden files was written by a search of tiny-flux with a budget of 3. Nothing
is searched or generated here.
"""

import datetime
import tempfile
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rich.console import Console

from sensitivity.cli.render.candidates import dead_pattern_lines, fixed_table
from sensitivity.cli.render.check import check_lines
from sensitivity.cli.render.diff import diff_report, nearest_lines
from sensitivity.cli.render.front import front_table, front_words
from sensitivity.cli.render.judges import judge_table
from sensitivity.cli.render.measured import end_table
from sensitivity.cli.render.page.markdown import markdown_of
from sensitivity.cli.render.status import status_lines
from sensitivity.cli.render.verdict import verdict_screen
from sensitivity.cli.render.verified import verified_screen
from sensitivity.cli.screen import print_line
from sensitivity.consumers.exporters import EXPORTERS
from sensitivity.core.format_name import FormatName
from sensitivity.fidelity.flips import FlipRule
from sensitivity.fidelity.mean_curve import MeanCurve
from sensitivity.fidelity.score import JudgeValues, MetricValues, Score
from sensitivity.fidelity.summary import SummaryRules
from sensitivity.formats.execution import Execution
from sensitivity.latency.pricer import Pricer
from sensitivity.recipes.diff import compare_recipes
from sensitivity.recipes.recipe import Recipe, load_recipe
from sensitivity.search.candidates import Candidates, Group
from sensitivity.search.front import Constraints
from sensitivity.search.loop import SearchResult
from sensitivity.search.trials import ScoredTrial
from sensitivity.search.winner import Winner
from sensitivity.workflows.conclude import SearchOutcome
from sensitivity.workflows.criteria import memory_criterion, speed_criterion
from sensitivity.workflows.gate import Checked, Drawn, Gate
from sensitivity.workflows.picture_criteria import against_criterion, picture_criteria
from sensitivity.workflows.report.snippets import snippets_of
from sensitivity.workflows.report.verdict import verdict_of
from sensitivity.workflows.status import Member, Status, StudyStatus, Trials, Worker
from sensitivity.workflows.verify import Verification, summary_rules

from support.paths import ROOT
from support.reports import hostile_report
from support.screens import RoundNumbers
from support.shape_runs import shape_run
from support.timed import end_times
from support.tiny_flux_recipes import SPEC

RECIPE = ROOT / "tests" / "cli" / "golden" / "recipe.json"
NVFP4 = FormatName.NVFP4
PROMPTS, BF16_S = 24, 0.0957


@cache
def recipe() -> Recipe:
    """The kept recipe."""
    return load_recipe(RECIPE)


def score(level: float, *, held_out: bool = False, sound: bool = False) -> Score:
    """LPIPS of 24 prompts around a level, of which every seventh is six times as large."""
    values = tuple(level * (0.5 + (i * 7 % 13) / 12) * (6 if i % 7 == 6 else 1) for i in range(24))
    judges = {
        name: JudgeValues(
            per_prompt=(value / (1 + level),) * PROMPTS,
            noise_floor=floor,
            higher_is_better=better,
            unit=unit,
            made_by="a test",
        )
        for name, value, floor, better, unit in (
            ("psnr", 38.2, 58.6, True, "dB"),
            ("ssim", 0.9871, 0.9995, True, ""),
            ("flip", 0.0489, 0.0072, False, ""),
            ("colour of the sky", 1234.5, None, False, "mJOD"),
        )
    }
    distance = MetricValues(per_prompt=(3 * level,) * PROMPTS, noise_floor=0.001)
    return Score(
        net="tiny",
        mean=sum(values) / PROMPTS,
        per_prompt=values,
        noise_floor=3.8e-05,
        judges=judges if held_out else {},
        audio=distance if sound else None,
        audio_weight=0.5 if sound else 0.0,
    )


def trials(*, sound: bool = False) -> tuple[ScoredTrial, ...]:
    """bf16, three lists by hand, three proposals."""
    named = ("none", "all nvfp4", "rule of thumb", "torchao's list for FLUX.1-dev", "", "", "")
    levels = (0.0, 0.0385, 0.0265, 0.0344, 0.0105, 0.0065, 0.0171)
    seconds = (BF16_S, 0.06543, 0.0659, 0.06437, 0.0754, 0.0841, 0.0695)
    return tuple(
        ScoredTrial(
            index=i,
            number=max(0, i - 3),
            choice=tuple(int(i > 0 and (g + i) % 7 < 4) for g in range(4)),
            label=label,
            latency_s=s,
            score=score(level, sound=sound),
            seconds=20.0,
        )
        for i, (label, level, s) in enumerate(zip(named, levels, seconds, strict=True))
    )


def candidates() -> Candidates:
    """Four groups of 14 Linears, and two Linears that stay bf16."""
    fqns = tuple(f"transformer_blocks.{i}.ff.net.2" for i in range(56))
    return Candidates(
        formats=(FormatName.BF16, NVFP4),
        groups=tuple(
            Group(
                name=f"ff[{g}]",
                fqns=fqns[14 * g : 14 * g + 14],
                members=((), fqns[14 * g : 14 * g + 14]),
                gains_s=(0.0, 0.01),
            )
            for g in range(4)
        ),
        fixed={
            "x_embedder": "K = 16 is not a multiple of 32, as nvfp4 needs",
            "proj_out": "always_skip: the last layer, 0.01 % of a run",
        },
        refused={},
        fqns=(*fqns, "x_embedder", "proj_out"),
        rule_of_thumb=(1, 1, 1, 0),
        bf16_s=BF16_S,
        dead=("no.such.*",),
    )


def outcome(*, chosen: bool = True, sound: bool = False) -> SearchOutcome:
    """A finished search: four lists were verified, and trial 3 was named."""
    tried = trials(sound=sound)
    curve = MeanCurve(at=0.02, log_ratio=0.43, slope=-0.1, error=0.2)
    rule = FlipRule(threshold=0.15, another_seed=0.3751)
    rules = SummaryRules(curve=curve, damage_curve=curve, flip_rule=rule)
    held = {i: score(tried[i].typical * 1.1, held_out=True, sound=sound) for i in (1, 2, 4, 6)}
    spec = SimpleNamespace(name="tiny-flux", pricing=SimpleNamespace(stands_for=16))
    prepared: Any = SimpleNamespace(
        candidates=candidates(),
        latency=SimpleNamespace(source="predicted", target="b200"),
        evaluator=SimpleNamespace(
            spec=spec, execution=SimpleNamespace(words="by emulation of the formats")
        ),
    )
    winner = Winner(
        constraints=Constraints(),
        rules=rules,
        first=tried[6],
        shortlist=(tried[2], tried[6]),
        passed_over=(),
        chosen=tried[6] if chosen else None,
        held_out=held,
    )
    return SearchOutcome(
        prepared=prepared,
        result=SearchResult(study="tiny-flux", trials=tried, failures=(), interrupted=False),
        front=(tried[3], tried[2], tried[6], tried[4], tried[5], tried[0]),
        rules=rules,
        chosen=tried[6] if chosen else None,
        held_out=held,
        winner=winner if chosen else None,
    )


def search(console: Console) -> None:
    """`search` at its end: the verdict."""
    found = recipe()
    more = [("front", front_words(outcome()))]
    console.print(verdict_screen(verdict_of(found), snippets_of(found), more=more))


def search_all(console: Console) -> None:
    """`search --all`: what the verdict rests on."""
    found = outcome(sound=True)
    console.print(front_table(found))
    console.print(judge_table(found))
    lists = {name: {"a": NVFP4} for name in ("trial 3", "rule of thumb", "all nvfp4")}
    times = end_times(lists, {"all nvfp4": "a kernel refused K = 12288, N = 3072"})
    console.print(end_table(times, linears=58, others_s=0.011))
    console.print(fixed_table(found.prepared.candidates.fixed))
    for line in dead_pattern_lines(found.prepared.candidates.dead):
        print_line(console, line)


def select(console: Console) -> None:
    """`select`, where nothing keeps to the bounds: the front without a winner."""
    console.print(front_table(outcome(chosen=False)))


def verify(console: Console) -> None:
    """`verify`: the pictures of now are further from bf16 than the recipe says."""
    found = Verification(
        score=score(0.03, held_out=True),
        rules=summary_rules(recipe()),
        execution=Execution(device="cpu", formats=(NVFP4,)),
        broken={"max_typical": 0.0312},
    )
    console.print(verified_screen(recipe(), found, Constraints(max_typical=0.02)))


def check(console: Console) -> None:
    """`check`: of each decision one, at least, and a line that is long."""
    found = score(0.03, held_out=True)
    rules, seen = summary_rules(recipe()), score(0.028, held_out=True)
    asked = Constraints(max_lpips=0.15, max_typical=0.033, max_flips=2, max_judge={"flip": 0.05})
    criteria = (
        *picture_criteria(found, rules, asked),
        against_criterion(found, seen, "tiny-flux-nvfp4-b200"),
        speed_criterion(1.377, (1.181, 1.462), 1.2, "predicted for b200, batch 1"),
        memory_criterion(25_300_000_000, 0, 24 * 10**9, "measured on NVIDIA B200"),
    )
    drawn = Drawn(
        score=found,
        other=seen,
        rules=rules,
        execution=Execution(device="cpu", formats=(NVFP4,)),
        weights_sha256="5f0c" * 16,
    )
    checked = Checked(
        recipe=other_recipe(),
        model="tiny-flux",
        gate=Gate(constraints=asked),
        criteria=criteria,
        drawn=drawn,
        against=recipe(),
    )
    for text, style in check_lines(checked):
        print_line(console, text, style=style)


def other_recipe() -> Recipe:
    """The kept recipe with other formats in ten Linears."""
    names = [fqn for fqn, name in recipe().layers.items() if name is NVFP4]
    formats = dict.fromkeys(names[:4], "mxfp8") | dict.fromkeys(names[4:10], "bf16")
    data = recipe().model_dump(mode="json") | {"name": "other", "patterns": []}
    data["layers"] = data["layers"] | formats
    return Recipe.from_mapping(data)


def pricer() -> Pricer:
    """Toy prices of tiny-flux."""
    return Pricer.of(SPEC, shape_run("tiny-flux"), latency=lambda *_: RoundNumbers())


def diff(console: Console) -> None:
    """`diff`: what differs, and what it costs and gains."""
    console.print(diff_report(compare_recipes(recipe(), other_recipe(), pricer=pricer())))


def export_nearest(console: Console) -> None:
    """`export --nearest`: what changes so that a consumer can express it."""
    before, after = (pricer().price(own.name, own.layers) for own in (other_recipe(), recipe()))
    nearest: Any = SimpleNamespace(
        before=before,
        after=after,
        recipe=recipe(),
        changed={"transformer_blocks.0.ff.net.2": ("nvfp4", "bf16"), "proj_out": ("nvfp4", "bf16")},
        damage={"nvfp4": 0.0312},
    )
    for line in nearest_lines(nearest):
        print_line(console, line)


def export(console: Console) -> None:
    """`export --to skip-list`: globs of what stays bf16, and what the consumer does differently."""
    exporter = EXPORTERS["skip-list"](form="globs")
    text = exporter.export(recipe())
    console.file.write(text)
    for note in exporter.notes(recipe(), text):
        print_line(console, f"note on {exporter.name}: {note}")


def report(console: Console) -> None:
    """`report --md`: the table for pull requests, of a model with hostile names."""
    with tempfile.TemporaryDirectory() as folder:
        console.file.write(markdown_of(hostile_report(Path(folder))))


def status(console: Console) -> None:
    """`status`: one search goes on, another database has none."""
    now = datetime.datetime(2026, 11, 29, 6, 30, tzinfo=datetime.UTC)
    bf16_s = 7.61234
    front = tuple(
        Member(name=name, seconds=bf16_s / speedup, speedup=speedup, typical=typical)
        for name, speedup, typical in (
            ("torchao's list for FLUX.1-dev", 1.487, 0.0344),
            ("trial 12", 1.377, 0.0171),
            ("none", 1.0, 0.0),
        )
    )
    counts = Trials(done=12, budget=50, stopped=2, failed=1, running=1, baselines=4, an_hour=96.4)
    studies = (
        StudyStatus(
            name="flux1-dev-nvfp4-b200-bbe2fbf1",
            model="flux1-dev",
            settings={},
            trials=counts,
            front=front,
            updated=now,
        ),
    )
    worker = Worker(
        name="gpu-7:4242",
        is_alive=True,
        device="cuda",
        study="flux1-dev-nvfp4-b200-bbe2fbf1",
        stage="trials",
        what="trial 13",
        done=12,
        total=50,
        seen=now,
        silent_s=0.0,
        left_s=1710.0,
    )
    running = Status(
        database=str(Path("sensitivity-runs") / "flux1-dev.db"),
        now=now,
        writer="process 4242",
        workers=(worker,),
        studies=studies,
    )
    idle = running.model_copy(
        update={
            "database": "sensitivity-runs/sdxl.db",
            "workers": (),
            "studies": (),
            "writer": None,
        }
    )
    console.print(status_lines([running, idle]))


SEARCH_SCREENS = {
    "search": search,
    "search-all": search_all,
    "select": select,
    "verify": verify,
    "check": check,
    "export-nearest": export_nearest,
    "diff": diff,
    "export": export,
    "report": report,
    "status": status,
}
"""{command: prints what it shows}"""
