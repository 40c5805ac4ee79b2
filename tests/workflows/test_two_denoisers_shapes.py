"""Two denoisers that take turns, as Wan 2.2's, are profiled, grouped, priced, timed and calibrated
as one model.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sensitivity.core.format_name import FormatName
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.latency import ShapeScale, stand_for
from sensitivity.latency.devices import get_device
from sensitivity.latency.predicted import PredictedLatency
from sensitivity.latency.runtimes import get_runtime
from sensitivity.latency.shape_times import attentions_of
from sensitivity.latency.timing import interleaved
from sensitivity.latency.timing.timed_lists import Conditions
from sensitivity.models.denoisers import Denoisers, joined, parts_of
from sensitivity.models.generating import MediaGenerator
from sensitivity.models.loading import load_pipeline
from sensitivity.models.random_weights import random_component
from sensitivity.models.step_latents import run_steps
from sensitivity.search.block_patterns import BlockPatterns
from sensitivity.search.calibration.jobs import EstimatorName
from sensitivity.search.calibration.states import call_again, record_states
from sensitivity.search.calibration.stored import calibrate, calibration_cost
from sensitivity.search.candidates import Candidates
from sensitivity.search.grouping import make_candidates
from sensitivity.search.store import Store
from sensitivity.shapes.by_hand import rule_of_thumb
from sensitivity.shapes.run import run_shapes
from sensitivity.shapes.table import ShapeTable
from sensitivity.spec.hand_lists import Reasoned
from sensitivity.spec.loading import load_spec
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows import measure as measuring
from sensitivity.workflows.calibrate import denoiser_calls
from sensitivity.workflows.measure import measure_runs, time_pipeline
from sensitivity.workflows.plan import plan_search
from sensitivity.workflows.price import PriceRequest, price
from sensitivity.workflows.requests import SearchRequest

from support.clip_pipelines import save_wan
from support.two_denoisers import (
    LINEARS,
    MXFP8,
    NAMES,
    NVFP4,
    changed,
    linears,
    save_two_denoisers,
)

B200 = PredictedLatency(get_device("b200"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def spec(folder: Path) -> StudySpec:
    return save_two_denoisers(folder)


@pytest.fixture
def evaluator(spec: StudySpec, folder: Path) -> Iterator[Evaluator]:
    made = Evaluator(load_pipeline(spec, device="cpu"), cache_folder=folder / "references")
    yield made
    made.close()


@pytest.fixture(scope="module")
def table(spec: StudySpec) -> ShapeTable:
    """The Linears of both, from a run without weights."""
    return run_shapes(spec).table


def candidates_of(
    table: ShapeTable,
    spec: StudySpec,
    formats: tuple[FormatName, ...] = (MXFP8, NVFP4),
    **kwargs: Any,
) -> Candidates:
    """The candidates of a search, at the scale that is priced."""
    scaled = stand_for(table, ShapeScale(factor=spec.pricing.stands_for))
    return make_candidates(scaled, spec, formats=formats, latency=B200, **kwargs)


def test_shapes_are_the_same_with_and_without_weights(
    spec: StudySpec, evaluator: Evaluator
) -> None:
    """Both ways give both denoisers' Linears with the calls of their own steps; the table survives
    JSON, and the census counts each denoiser.
    """
    run = run_shapes(spec)
    real = evaluator.profile()
    assert run.table.linears == real.linears
    assert run.table.components == real.components == NAMES
    assert [linear.fqn for linear in real.linears] == [
        f"{name}.{fqn}" for name in NAMES for fqn in linears(evaluator.loaded.pipe.transformer)
    ]
    assert {linear.calls for linear in real.linears} == {4}
    assert {(call.component, call.calls) for call in run.calls} == {(name, 4) for name in NAMES}
    assert run.other_denoisers == ()
    assert ShapeTable.from_json(run.table.to_json()) == run.table
    assert run.table.shared_inputs == real.shared_inputs
    assert not any(
        {fqn.partition(".")[0] for fqn in group} == {*NAMES} for group in run.table.shared_inputs
    )
    assert denoiser_calls(run.table) == 8


def test_one_of_them_alone_has_plain_names(spec: StudySpec) -> None:
    """FQNs of one component alone, and of a study of one denoiser, do not begin with its name; the
    other denoiser is listed as left out.
    """
    for run in (
        run_shapes(spec, component="transformer_2"),
        run_shapes(changed(spec, model={"component": "transformer_2", "components": ()})),
    ):
        assert len(run.table.linears) == LINEARS
        assert (run.table.components, run.other_denoisers) == ((), ("transformer",))
        assert "components" not in run.table.to_json()
        assert run.table.linears[-1].fqn == "proj_out"


def test_a_tensor_that_both_read_is_not_shared() -> None:
    """Two denoisers are compiled in two graphs, so a tensor that both read is quantized twice."""
    from sensitivity.shapes.recorder import record_linears

    both, x = (
        joined({"a": nn.Linear(4, 4), "b": nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))}),
        torch.ones(1, 4),
    )
    with record_linears(both) as recorder:
        for part in both.modules():
            if isinstance(part, nn.Linear):
                part(x)
    assert recorder.table(model="x").shared_inputs == (("b.0", "b.1"),)


def test_no_group_is_of_two_denoisers(spec: StudySpec, table: ShapeTable) -> None:
    """Each denoiser has the groups that it has alone, bands of its own blocks included."""
    both, alone = (
        candidates_of(run_shapes(spec, component=name).table, spec)
        for name in (None, "transformer")
    )
    expected = [
        (f"{name}.{group.name}", tuple(f"{name}.{fqn}" for fqn in group.fqns))
        for name in NAMES
        for group in alone.groups
    ]
    assert [(group.name, group.fqns) for group in both.groups] == expected
    layers = candidates_of(table, spec, granularity="layer")
    assert {len({fqn.partition(".")[0] for fqn in group.fqns}) for group in layers.groups} == {1}


def test_a_pattern_without_a_component_means_both(spec: StudySpec, table: ShapeTable) -> None:
    """`proj_out` matches in each denoiser, `transformer_2.proj_out` in one; a pattern that matches
    nothing is listed.
    """
    skips = tuple(
        Reasoned(pattern=pattern, reason="a test")
        for pattern in ("proj_out", "transformer_2.*.ffn.net.2", "blocks.9.*")
    )
    study = changed(spec, search={"always_skip": [skip.model_dump() for skip in skips]})
    found = candidates_of(table, study)
    skipped = {fqn for fqn, why in found.fixed.items() if why == "always skipped: a test"}
    assert skipped == {
        "transformer.proj_out",
        "transformer_2.proj_out",
        "transformer_2.blocks.0.ffn.net.2",
        "transformer_2.blocks.1.ffn.net.2",
    }
    assert found.dead == ("blocks.9.*",)


def test_the_rule_of_thumb_means_both(spec: StudySpec) -> None:
    """It quantizes in both what it quantizes in one: its names are those inside a denoiser."""
    study = changed(
        spec, rule_of_thumb={"skip": [{"pattern": "proj_out", "reason": "the final projection"}]}
    )
    alone, both = (
        rule_of_thumb(run_shapes(study, component=name).table, study)
        for name in ("transformer", None)
    )
    assert both == {f"{name}.{fqn}" for name in NAMES for fqn in alone}
    small = changed(study, rule_of_thumb={"min_dim": 1})
    table = run_shapes(small).table
    assert {x.fqn for x in table.linears} - rule_of_thumb(table, small) == {
        f"{name}.proj_out" for name in NAMES
    }


def test_two_denoisers_share_the_steps_at_the_price_of_one(
    spec: StudySpec, table: ShapeTable, folder: Path
) -> None:
    """A run whose steps two denoisers share takes what one alone takes for all of them: neither is
    priced as uncompiled work beside the other.
    """
    one = load_spec(save_wan(folder / "alone"))
    settings = {key: value for key, value in spec.settings.items() if key != "guidance_scale_2"}
    single, double = (
        run_shapes(one.model_copy(update={"settings": settings})).table,
        table,
    )
    assert B200.rest_s(double) == pytest.approx(B200.rest_s(single), rel=1e-9)
    everything = {linear.fqn: NVFP4 for table in (single, double) for linear in table.linears}
    estimates = [
        B200.estimate(table, {x.fqn: everything[x.fqn] for x in table.linears})
        for table in (single, double)
    ]
    assert estimates[1].bf16_s == pytest.approx(estimates[0].bf16_s, rel=1e-9)
    assert estimates[1].quantized_s == pytest.approx(estimates[0].quantized_s, rel=1e-9)
    assert sum(x.flops for x in attentions_of(double, components=NAMES)) == sum(
        x.flops for x in attentions_of(single, components=NAMES)
    )


def test_a_plan_counts_both(spec: StudySpec, folder: Path) -> None:
    """`search --dry-run` keeps both denoisers in memory and times the calls of both."""
    request = SearchRequest(formats=(MXFP8,), storage=folder / "s.db")
    plan = plan_search(spec, request)
    assert {part.name for part in plan.sizes.peak.parts} >= {*NAMES}
    assert "denoiser calls with random weights" in plan.source
    assert plan.picture_s > 0


def test_block_patterns_of_both_share_torchs_limit(spec: StudySpec, table: ShapeTable) -> None:
    """torch counts the graphs of a class, whichever denoiser the block is of: two blocks each, four
    patterns at most, and a limit of three binds.
    """
    found = candidates_of(table, spec, granularity="layer")
    patterns = BlockPatterns(found, limit=3)
    assert patterns.binding
    assert patterns.count(found.none_quantized) == {"blocks": 1}
    one_each = tuple(
        option for option, group in enumerate(found.groups) if "ffn.net.2" in group.name
    )  # the group's index stands for another choice in each block
    assert len(one_each) == 4
    choice = list(found.none_quantized)
    choice[one_each[0]] = 1
    choice[one_each[3]] = 2
    assert patterns.count(choice) == {"blocks": 3}


def fake_kernels(monkeypatch: pytest.MonkeyPatch) -> list[tuple[type, list[str]]]:
    """(class, FQNs) of what is asked to be quantized; nothing is."""
    asked: list[tuple[type, list[str]]] = []
    monkeypatch.setattr(
        interleaved,
        "quantize_native",
        lambda module, formats: asked.append((type(module), sorted(formats))),
    )
    return asked


def conditions(runtime: str) -> Conditions:
    """One call that compiles, and one round, which takes as long as that call."""
    return Conditions(
        runtime=get_runtime(runtime),
        device="cpu",
        rounds=1,
        warmups=0,
        backend="eager",
        clock=lambda unit, about_s, _device: (unit.work(), about_s)[1],
    )


def test_a_whole_run_is_timed_with_both_compiled(
    spec: StudySpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inside, the pipeline has copies of both, whose blocks are compiled, and each marks its steps
    where CUDA graphs are replayed; afterwards it has its own again.
    """
    asked = fake_kernels(monkeypatch)
    loaded = load_pipeline(spec, device="cpu")
    own = [getattr(loaded.pipe, name) for name in NAMES]
    seen: list[tuple[bool, bool]] = []

    def generate() -> None:
        parts = [getattr(loaded.pipe, name) for name in NAMES]
        marked = all(part._forward_pre_hooks for part in parts)
        compiled = all(part.blocks[0]._compiled_call_impl is not None for part in parts)
        seen.append((marked and compiled, any(a is b for a, b in zip(parts, own, strict=True))))
        MediaGenerator(loaded).generate(["a ring"], [0], batch_size=1, num_inference_steps=2)

    monkeypatch.setattr(measuring, "pipeline_call", lambda _loaded: generate)
    found = time_pipeline(loaded, {}, conditions("torchao-graphs"))["none"]
    assert seen == [(True, False)] * 2
    assert asked == [(Denoisers, [])]
    assert found.timings[0].compiled == "repeated blocks (WanTransformerBlock)"
    assert len(found.rounds_s) == 1
    assert [getattr(loaded.pipe, name) for name in NAMES] == own
    assert all(
        child._compiled_call_impl is None and not child._forward_pre_hooks
        for child in loaded.denoiser.modules()
    )


def test_calls_of_both_are_timed_one_after_another(
    spec: StudySpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With random weights each denoiser is built once, quantized by its own names and timed with
    its own calls; a run is the sum of both.
    """
    asked, built = fake_kernels(monkeypatch), list[str]()

    def build(spec: StudySpec, component: str, device: str) -> nn.Module:
        built.append(component)
        return random_component(spec, component=component, device=device)

    monkeypatch.setattr(measuring, "random_component", build)
    eager = conditions("torchao-eager")
    monkeypatch.setattr(measuring, "Conditions", lambda **own: replace(eager, **own))
    prices = price(spec, PriceRequest(format=MXFP8))
    formats = {"transformer.proj_out": MXFP8, "transformer_2.blocks.0.ffn.net.2": MXFP8}
    main = replace(prices.main, formats=formats)
    runs = measure_runs(
        replace(prices, main=main, spec=changed(spec, pricing={"stands_for": 1})),
        device="cpu",
        target="b200",
        weights="random",
        runtime=eager.runtime,
        repetitions=1,
    )
    assert built == list(NAMES)
    names = [fqns for _, fqns in asked]
    assert names == [[], ["proj_out"], [], ["blocks.0.ffn.net.2"]]
    assert {kind.__name__ for kind, _ in asked} == {"WanTransformer3DModel"}
    none, all_ = runs.runs
    assert [timing.calls for timing in none.timed.timings] == [4, 4]
    assert all_.seconds == pytest.approx(
        sum(timing.calls * timing.seconds[0] for timing in all_.timed.timings)
    )
    assert runs.covers.startswith("8 denoiser calls")
    data = runs.to_json()
    assert data["speedup"] == pytest.approx(data["bf16_s"] / data["quantized_s"])
    assert data["runtime"] == "torchao-eager"


def test_states_come_from_both(evaluator: Evaluator) -> None:
    """Two calls of each, early ones of its own, which the same denoiser repeats bit for bit."""
    states = record_states(evaluator, states=2, prompts=1)
    assert [(state.component, state.index, state.call) for state in states] == [
        ("transformer", 0, 0),
        ("transformer", 1, 1),
        ("transformer_2", 0, 4),
        ("transformer_2", 1, 5),
    ]
    with torch.no_grad():
        assert all(torch.equal(call_again(evaluator, state)[0], state.output) for state in states)
    assert not any(part._forward_hooks for part in parts_of(evaluator.loaded.denoiser).values())


def test_a_job_is_measured_at_its_own_denoiser(
    evaluator: Evaluator, spec: StudySpec, table: ShapeTable, tmp_path: Path
) -> None:
    """The output estimator's error of a group is that of its denoiser's output, computed here by
    hand.
    """
    found = candidates_of(table, spec)
    with Store.open(tmp_path / "c.db") as store:
        errors = calibrate(evaluator, found, store, estimator="output", states=1, prompts=1)
    g = next(
        i
        for i, group in enumerate(found.groups)
        if group.name.startswith("transformer_2.blocks.ffn.net.2")
    )
    state = record_states(evaluator, states=1, prompts=1)[1]
    evaluator.switch.set(dict.fromkeys(found.groups[g].members[2], NVFP4))
    with torch.no_grad():
        out = evaluator.loaded.pipe.transformer_2(*state.args, **state.kwargs)[0].float()
    evaluator.switch.set({})
    expected = (
        (out - state.output.float()).square().mean() / state.output.float().square().mean()
    ).sqrt()
    assert errors[g, 2] == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("estimator", list(EstimatorName))
def test_every_estimator_measures_both(
    evaluator: Evaluator,
    spec: StudySpec,
    table: ShapeTable,
    estimator: EstimatorName,
    tmp_path: Path,
) -> None:
    """Groups of both get a positive, finite error, the cost counts all denoiser calls that it
    makes, and the pipeline is left as it was.
    """
    found = candidates_of(table, spec, (NVFP4,))
    if estimator == "preview":  # each job generates clips: two groups of each denoiser
        few = [
            g
            for name in NAMES
            for g in [g for g, x in enumerate(found.groups) if x.name.startswith(f"{name}.")][:2]
        ]
        found = replace(
            found,
            groups=tuple(found.groups[g] for g in few),
            rule_of_thumb=tuple(found.rule_of_thumb[g] for g in few),
        )
    calls: list[str] = []
    for name, part in parts_of(evaluator.loaded.denoiser).items():
        part.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
    how: dict[str, Any] = {"estimator": estimator, "states": 2, "prompts": 1}
    with Store.open(tmp_path / "c.db") as store:
        cost = calibration_cost(evaluator, found, store, calls_a_run=8, **how)
        errors = calibrate(evaluator, found, store, **how)
        known = calibration_cost(evaluator, found, store, calls_a_run=8, **how)
    assert (cost.known, known.known, known.picture_calls) == (0, cost.jobs, 0)
    assert len(errors) == cost.jobs == sum(bool(group.members[1]) for group in found.groups)
    assert all(0 < error < 10 for error in errors.values())
    if estimator == "output":
        assert len(calls) == cost.picture_calls == 8 + 2 * cost.jobs
    elif estimator == "rollout":
        # half of each one's two steps, with guidance; the first one's answers come from memory
        assert cost.picture_calls == 8 + 2 * cost.jobs
        assert calls.count("transformer_2") == 4 + cost.jobs
        assert len(calls) == 8 + cost.jobs * (2 + 4 + 2) / 2
    elif estimator == "preview":
        # bf16 and each job, twice; the pipeline calls as ever, most answers come from memory
        assert cost.decodes == cost.picture_calls - 8 == 2 * (cost.jobs + 2)
        assert len(calls) == 8 * (1 + cost.decodes)
    else:
        assert calls.count("transformer") == calls.count("transformer_2") >= 4 + 2
    assert not any(
        vars(part).get("forward") for part in parts_of(evaluator.loaded.denoiser).values()
    )


def test_a_rollout_of_the_second_denoiser_begins_where_it_does(
    evaluator: Evaluator, spec: StudySpec, table: ShapeTable, tmp_path: Path
) -> None:
    """The error of a group of `transformer_2` is that of a whole run with it quantized, after the
    first of its two steps, though the steps before are not computed again.
    """
    found = candidates_of(table, spec, (NVFP4,))
    g = next(g for g, x in enumerate(found.groups) if x.name.startswith("transformer_2.blocks.ffn"))
    with Store.open(tmp_path / "c.db") as store:
        errors = calibrate(evaluator, found, store, estimator="rollout", states=2, prompts=1)
    latents: list[torch.Tensor] = []
    texts, seeds = evaluator.prompts("search")
    for formats in ({}, dict.fromkeys(found.groups[g].members[1], NVFP4)):
        evaluator.switch.set(formats)
        with torch.no_grad():
            run_steps(
                evaluator.media_generator,
                texts[:1],
                seeds[:1],
                steps=3,
                after_step=lambda step, x: latents.append(x[0].float()) if step == 2 else None,
            )
    evaluator.switch.set({})
    clean, other = latents
    assert errors[g, 1] == pytest.approx(float((other - clean).norm() / clean.norm()), rel=1e-5)
