"""A pipeline with two denoisers that take turns, as Wan 2.2, is searched as one model and has one
recipe.

The pipeline is tiny, random and saved by diffusers; two of its four steps are made by
`transformer`, two by `transformer_2`, with classifier-free guidance.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import PipelineQuantizationConfig, WanPipeline, WanTransformer3DModel
from torch import nn

from sensitivity.consumers.exporters import get_exporter
from sensitivity.consumers.exporters.diffusers import DiffusersExporter
from sensitivity.consumers.exporters.skip_list import SkipListExporter
from sensitivity.core.format_name import FormatName
from sensitivity.core.patterns import read_list
from sensitivity.errors import RecipeError, RecipeMismatchError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.latency import ShapeScale, stand_for
from sensitivity.latency.devices import get_device
from sensitivity.latency.end_to_end import measure_calls, measure_pipeline
from sensitivity.latency.measured import attentions_of
from sensitivity.latency.predicted import PredictedLatency
from sensitivity.models.compiled_regions import CompiledRegions, count_block_patterns, regions_of
from sensitivity.models.denoisers import joined, parts_of
from sensitivity.models.generating import Painter
from sensitivity.models.loading import load_pipeline
from sensitivity.recipes.recipe import Recipe, load_recipe
from sensitivity.search.block_patterns import BlockPatterns
from sensitivity.search.calibration.jobs import EstimatorName
from sensitivity.search.calibration.states import call_again, record_states
from sensitivity.search.calibration.stored import calibrate, calibration_cost
from sensitivity.search.candidates import Candidates, make_candidates
from sensitivity.search.store import Store
from sensitivity.shapes.by_hand import rule_of_thumb
from sensitivity.shapes.run import run_shapes
from sensitivity.shapes.table import ShapeTable
from sensitivity.spec.hand_lists import Reasoned
from sensitivity.spec.loading import load_spec
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows import measure as measuring
from sensitivity.workflows.calibrate import calls_a_run
from sensitivity.workflows.find import SearchOutcome, find_recipe
from sensitivity.workflows.measure import measure_runs
from sensitivity.workflows.plan import plan_search
from sensitivity.workflows.price import PriceRequest, price
from sensitivity.workflows.requests import SearchRequest
from sensitivity.workflows.verify import verify_recipe

from support.clip_pipelines import save_wan

MXFP8, NVFP4, BF16 = FormatName.MXFP8, FormatName.NVFP4, FormatName.BF16
NAMES = ("transformer", "transformer_2")
B200 = PredictedLatency(get_device("b200"))
LINEARS = 2 * 10 + 6  # of each denoiser: two blocks, timestep, text and output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def spec(folder: Path) -> StudySpec:
    return load_spec(save_wan(folder / "wan", denoisers=2))


@pytest.fixture
def evaluator(spec: StudySpec, folder: Path) -> Iterator[Evaluator]:
    made = Evaluator(load_pipeline(spec, device="cpu"), cache_folder=folder / "references")
    yield made
    made.close()


@pytest.fixture(scope="module")
def outcome(spec: StudySpec, folder: Path) -> SearchOutcome:
    """A search of three trials; the fastest skip-list is chosen."""
    request = SearchRequest(
        formats=(MXFP8,),
        budget=3,
        max_lpips=5.0,
        storage=folder / "s.db",
        cache_folder=folder / "references",
    )
    return find_recipe(spec, request)


@pytest.fixture(scope="module")
def recipe(outcome: SearchOutcome) -> Recipe:
    assert outcome.recipe is not None
    return outcome.recipe


def linears(module: nn.Module) -> list[str]:
    return [fqn for fqn, child in module.named_modules() if isinstance(child, nn.Linear)]


def quantized(module: nn.Module) -> set[str]:
    """Linears whose weight is no plain tensor."""
    return {
        fqn
        for fqn in linears(module)
        if type(module.get_submodule(fqn).get_parameter("weight").data) is not torch.Tensor
    }


def changed(spec: StudySpec, **sections: dict[str, Any]) -> StudySpec:
    data = spec.model_dump()
    return StudySpec.model_validate(
        data | {name: data[name] | values for name, values in sections.items()}
    )


def candidates_of(table: ShapeTable, spec: StudySpec, **kwargs: Any) -> Candidates:
    """At the priced scale, as a search has them."""
    return make_candidates(
        stand_for(table, ShapeScale(factor=spec.pricing.stands_for)),
        spec,
        formats=(MXFP8, NVFP4),
        latency=B200,
        **kwargs,
    )


# --- one module -----------------------------------------------------------------------------------


def test_one_denoiser_stays_what_it_is() -> None:
    """Alone it is the module itself, with its own names; two are held as they are, under their
    components' names, in the order given.
    """
    one, two = nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2))
    assert joined({"transformer": one}) is one
    assert parts_of(one) == {"": one}
    both = joined({"b": two, "a": one})
    assert linears(both) == ["b.0", "a"]
    assert parts_of(both) == {"b": two, "a": one}
    assert both.get_parameter("a.weight") is one.weight


def test_the_pipeline_keeps_its_modules(spec: StudySpec) -> None:
    """What is studied are the pipeline's own transformers, which it still calls, each for two of
    the four steps; the pipeline has no further component.
    """
    loaded = load_pipeline(spec, device="cpu")
    assert parts_of(loaded.denoiser) == {name: getattr(loaded.pipe, name) for name in NAMES}
    calls: list[str] = []
    for name, part in parts_of(loaded.denoiser).items():
        part.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
    Painter(loaded).draw(["a ring"], [0], batch_size=1)
    assert calls == ["transformer"] * 4 + ["transformer_2"] * 4
    assert set(loaded.pipe.components) == {"tokenizer", "text_encoder", *NAMES, "vae", "scheduler"}


def test_both_are_read_after_the_text_has_left(spec: StudySpec, evaluator: Evaluator) -> None:
    """Where parts take turns, as on a GPU, what is studied is what the pipeline calls, and the
    clips are those of a pipeline that is there as a whole.
    """
    loaded = load_pipeline(spec, device="cpu", in_turn=True)
    assert parts_of(loaded.denoiser) == {name: getattr(loaded.pipe, name) for name in NAMES}
    other = Evaluator(loaded, cache_folder=Path("unused"))
    formats = dict.fromkeys([f"{name}.blocks.0.ffn.net.2" for name in NAMES], NVFP4)
    assert torch.equal(
        other.draw(formats, "held_out").pictures, evaluator.draw(formats, "held_out").pictures
    )
    other.close()


# --- shapes, candidates, prices -------------------------------------------------------------------


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
    assert calls_a_run(run.table) == 8


def test_one_of_them_alone_has_plain_names(spec: StudySpec) -> None:
    """A component that is asked for, and a study of one denoiser, have names without a component;
    the other denoiser is said to be left out.
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
    """Linears of two denoisers that read one tensor are quantized in two graphs: nothing is saved."""
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


def test_no_group_is_of_two_denoisers(spec: StudySpec) -> None:
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
    layers = candidates_of(run_shapes(spec).table, spec, granularity="layer")
    assert {len({fqn.partition(".")[0] for fqn in group.fqns}) for group in layers.groups} == {1}


def test_a_pattern_without_a_component_means_both(spec: StudySpec) -> None:
    """`proj_out` is that of each, `transformer_2.proj_out` of one; what matches neither way is
    told.
    """
    skips = tuple(
        Reasoned(pattern=pattern, reason="a test")
        for pattern in ("proj_out", "transformer_2.*.ffn.net.2", "blocks.9.*")
    )
    told = changed(spec, search={"always_skip": [skip.model_dump() for skip in skips]})
    found = candidates_of(run_shapes(spec).table, told)
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
    told = changed(
        spec, rule_of_thumb={"skip": [{"pattern": "proj_out", "reason": "the final projection"}]}
    )
    alone, both = (
        rule_of_thumb(run_shapes(told, component=name).table, told)
        for name in ("transformer", None)
    )
    assert both == {f"{name}.{fqn}" for name in NAMES for fqn in alone}
    small = changed(told, rule_of_thumb={"min_dim": 1})
    assert {x.fqn for x in run_shapes(small).table.linears} - rule_of_thumb(
        run_shapes(small).table, small
    ) == {f"{name}.proj_out" for name in NAMES}


def test_two_denoisers_share_the_steps_at_the_price_of_one(spec: StudySpec, folder: Path) -> None:
    """A run whose steps two denoisers share takes what one alone takes for all of them: neither is
    priced as uncompiled work beside the other.
    """
    one = load_spec(save_wan(folder / "alone"))
    settings = {key: value for key, value in spec.settings.items() if key != "guidance_scale_2"}
    single, double = (
        run_shapes(one.model_copy(update={"settings": settings})).table,
        run_shapes(spec).table,
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


def test_block_patterns_of_both_share_torchs_limit(spec: StudySpec) -> None:
    """torch counts the graphs of a class, whichever denoiser the block is of: two blocks each, four
    patterns at most, and a limit of three binds.
    """
    found = candidates_of(run_shapes(spec).table, spec, granularity="layer")
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


# --- calibration ----------------------------------------------------------------------------------


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
    evaluator: Evaluator, spec: StudySpec, tmp_path: Path
) -> None:
    """The output estimator's error of a group is that of its denoiser's output, computed here by
    hand.
    """
    found = candidates_of(run_shapes(spec).table, spec)
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
    evaluator: Evaluator, spec: StudySpec, estimator: EstimatorName, tmp_path: Path
) -> None:
    """All groups of both get a positive, finite error, all denoiser calls that it makes are in the
    cost, and everything is as before.
    """
    found = candidates_of(run_shapes(spec).table, spec)
    calls: list[str] = []
    for name, part in parts_of(evaluator.loaded.denoiser).items():
        part.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
    how: dict[str, Any] = {"estimator": estimator, "states": 2, "prompts": 1}
    with Store.open(tmp_path / "c.db") as store:
        cost = calibration_cost(evaluator, found, store, calls_a_run=8, **how)
        errors = calibrate(evaluator, found, store, **how)
        known = calibration_cost(evaluator, found, store, calls_a_run=8, **how)
    assert (cost.known, known.known, known.picture_calls) == (0, cost.jobs, 0)
    assert (
        len(errors)
        == cost.jobs
        == sum(bool(group.members[option]) for group in found.groups for option in (1, 2))
    )
    assert all(0 < error < 10 for error in errors.values())
    if estimator == "output":
        assert len(calls) == cost.picture_calls == 8 + 2 * cost.jobs
    elif (
        estimator == "preview"
    ):  # bf16 and each job, twice; the pipeline asks as always, most answers come from memory
        assert cost.decodes == cost.picture_calls - 8 == 2 * (cost.jobs + 2)
        assert len(calls) == 8 * (1 + cost.decodes)
    else:
        assert calls.count("transformer") == calls.count("transformer_2") >= 4 + 2
    assert not any(
        vars(part).get("forward") for part in parts_of(evaluator.loaded.denoiser).values()
    )


# --- search, recipe, exports ----------------------------------------------------------------------


def test_a_search_gives_one_recipe_of_both(
    outcome: SearchOutcome, recipe: Recipe, folder: Path
) -> None:
    """Three trials, a recipe that names all Linears of both and quantizes some of each, which
    survives its file.
    """
    assert outcome.result.tried == 3
    assert list(recipe.model.classes.items()) == [(name, "WanTransformer3DModel") for name in NAMES]
    assert (recipe.model.component, recipe.model.component_class) == (
        "transformer",
        "WanTransformer3DModel",
    )
    own = recipe.layers_by_component
    assert {name: len(layers) for name, layers in own.items()} == dict.fromkeys(NAMES, LINEARS)
    assert all(MXFP8 in layers.values() for layers in own.values())
    assert set(recipe.block_patterns) == {"blocks"}
    assert recipe.memory.quantized_bytes < recipe.memory.bf16_bytes
    assert load_recipe(recipe.save(folder / "r.json")) == recipe


def test_applying_it_draws_what_the_search_scored(
    recipe: Recipe, evaluator: Evaluator, spec: StudySpec
) -> None:
    """By emulation, on a pipeline that plain diffusers loaded, the frames are the evaluator's, and
    `verify` finds the recipe's score.
    """
    scored = evaluator.draw(recipe.layers, "held_out")
    plain = WanPipeline.from_pretrained(spec.model.path, dtype=torch.bfloat16)
    plain.set_progress_bar_config(disable=True)
    report = recipe.apply(plain, emulate=True, allow_random_weights=True)
    assert report.counts[MXFP8] == len(recipe.layers) - len(recipe.skip)
    texts, seeds = evaluator.prompts("held_out")
    frames = plain(
        list(texts),
        **spec.settings,
        output_type="pt",
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
    ).frames
    assert torch.equal(frames.to(scored.pictures), scored.pictures)
    references = evaluator.references("held_out").pictures
    assert not torch.equal(frames.to(references), references)
    assert verify_recipe(recipe, spec, device="cpu").per_prompt == tuple(
        recipe.fidelity.lpips.per_prompt
    )


@pytest.mark.parametrize("form", ["object", "python", "json"])
def test_diffusers_loads_both_quantized(recipe: Recipe, spec: StudySpec, form: str) -> None:
    """`from_pretrained` with the exported config gives each transformer its own quantized Linears."""
    import diffusers

    if form == "object":
        config = recipe.to_diffusers(allow_random_weights=True)
    elif form == "json":
        mapping = json.loads(
            DiffusersExporter(form="json").export(recipe, allow_random_weights=True)
        )
        config = PipelineQuantizationConfig(
            quant_mapping={
                name: diffusers.TorchAoConfig.from_dict(data) for name, data in mapping.items()
            }
        )
    else:
        namespace: dict[str, Any] = {}
        exec(
            compile(
                DiffusersExporter().export(recipe, allow_random_weights=True), "exported.py", "exec"
            ),
            namespace,
        )
        config = namespace["quantization_config"]()
    pipe = WanPipeline.from_pretrained(
        spec.model.path,
        quantization_config=config,
        dtype=torch.bfloat16,
        vae=None,
        text_encoder=None,
        tokenizer=None,
    )
    assert_is(recipe, pipe)


@pytest.mark.parametrize("via_json", [False, True])
def test_torchao_quantizes_each_with_its_own_config(
    recipe: Recipe, spec: StudySpec, via_json: bool
) -> None:
    """One FqnToConfig a component, each for `quantize_` on that transformer."""
    from torchao.core.config import config_from_dict
    from torchao.quantization import quantize_

    if via_json:
        configs = {
            name: config_from_dict(data)
            for name, data in json.loads(
                get_exporter("torchao").export(recipe, allow_random_weights=True)
            ).items()
        }
    else:
        configs = recipe.to_torchao(allow_random_weights=True)
    pipe = WanPipeline.from_pretrained(
        spec.model.path, dtype=torch.bfloat16, vae=None, text_encoder=None, tokenizer=None
    )
    for name, config in configs.items():
        quantize_(getattr(pipe, name), config, filter_fn=None)
    assert_is(recipe, pipe)


def assert_is(recipe: Recipe, pipe: Any) -> None:
    """Each transformer has the recipe's Linears quantized, and no others."""
    for name, layers in recipe.layers_by_component.items():
        assert (
            quantized(getattr(pipe, name))
            == {fqn for fqn, fmt in layers.items() if fmt is MXFP8}
            != set()
        )


@pytest.mark.parametrize("globs", [False, True])
def test_a_skip_list_has_whole_names(
    recipe: Recipe, spec: StudySpec, globs: bool, tmp_path: Path
) -> None:
    """Entries begin with the component, a comment says so, and `latency --skip` reads the recipe
    back.
    """
    text = SkipListExporter(form="globs" if globs else "fqns").export(
        recipe, allow_random_weights=True
    )
    assert "# Names begin with their component's and a dot: transformer., transformer_2." in text
    if not globs:
        assert read_list(text) == recipe.skip
        assert "transformer_2.condition_embedder.time_embedder.linear_1" in recipe.skip
    path = tmp_path / "skip.txt"
    path.write_text(text)
    assert price(spec, PriceRequest(format=MXFP8, skip=path)).main.formats == recipe.layers


@pytest.mark.parametrize(
    "exporter",
    [
        SkipListExporter(),
        get_exporter("torchao"),
        DiffusersExporter(),
        DiffusersExporter(form="json"),
    ],
    ids=repr,
)
def test_exports_tell_the_denoisers_apart(exporter: Any) -> None:
    """Formats that differ between the two for one name inside them mean the recipe, and a Linear of
    neither is found.
    """
    layers = {
        "transformer.a": "nvfp4",
        "transformer.b": "bf16",
        "transformer_2.a": "bf16",
        "transformer_2.b": "nvfp4",
    }
    found = make_recipe(layers)
    assert exporter.verify(found, layers) == {fqn: FormatName(name) for fqn, name in layers.items()}
    with pytest.raises(RecipeError, match="a is not in the recipe"):
        exporter.verify(found, [*layers, "a"])


# --- what is refused ------------------------------------------------------------------------------


def make_recipe(layers: dict[str, str], **model: Any) -> Recipe:
    """A recipe of two denoisers, of which nothing but names matters."""
    lpips = {
        "mean": 0.1,
        "ci95": [0.1, 0.1],
        "net": "tiny",
        "noise_floor": None,
        "prompts": ["a"],
        "seeds": [1],
        "per_prompt": [0.1],
    }
    latency = {
        "bf16_s": 3.0,
        "quantized_s": 2.0,
        "speedup": 1.5,
        "source": "predicted",
        "target": "b200",
        "batch_size": 1,
        "compile_mode": None,
    }
    data = {
        "name": "toy",
        "layers": layers,
        "skip": [fqn for fqn in layers if layers[fqn] == "bf16"],
        "latency": latency,
        "fidelity": {"lpips": lpips},
        "memory": {"bf16_bytes": 2, "quantized_bytes": 1, "source": "predicted"},
        "block_patterns": {},
        "environment": {},
        "search": {"study": "toy", "budget": 1, "trials": 1, "sampler": "sweep", "seed": None},
        "model": (
            {
                "id": "toy",
                "revision": None,
                "pipeline_class": "WanPipeline",
                "component": "transformer",
                "component_class": "WanTransformer3DModel",
                "components": dict.fromkeys(NAMES, "WanTransformer3DModel"),
                "weights": "pretrained",
            }
            | model
        ),
    }
    return Recipe.from_mapping(data)


@pytest.mark.parametrize(
    ("layers", "model", "message"),
    [
        (
            {"transformer.a": "bf16"},
            {},
            "and no layer of transformer_2; every layer begins with a component's name",
        ),
        (
            {
                "transformer.a": "bf16",
                "transformer_2.a": "bf16",
                "a": "bf16",
                "transformer_2b": "bf16",
            },
            {},
            r"the layers 2 \(a, transformer_2b\)",
        ),
        (
            {"transformer.a": "bf16"},
            {"components": {"transformer": "WanTransformer3DModel"}},
            "allowed are two or more",
        ),
        (
            {"b.a": "bf16", "c.a": "bf16"},
            {"components": {"b": "B", "c": "C"}},
            r"transformer \(WanTransformer3DModel\) first",
        ),
    ],
)
def test_recipes_whose_components_do_not_fit_are_refused(
    layers: dict[str, str], model: dict[str, Any], message: str
) -> None:
    """Layers of no component, components without layers, one component in a list, and another first
    one.
    """
    with pytest.raises(RecipeError, match=message):
        make_recipe(layers, **model)


def test_only_the_whole_pipeline_takes_it(recipe: Recipe, spec: StudySpec) -> None:
    """One transformer alone, a pipeline without the second, and one with another class are refused,
    and nothing is changed.
    """
    pipe = WanPipeline.from_pretrained(
        spec.model.path, dtype=torch.bfloat16, vae=None, text_encoder=None, tokenizer=None
    )
    apply: Callable[[object], object] = partial(
        recipe.apply, emulate=True, allow_random_weights=True
    )
    with pytest.raises(
        RecipeMismatchError,
        match=(
            r"WanTransformer3DModel without a module named 'transformer' or 'transformer_2'.*all of"
            r" transformer, trans"
        ),
    ):
        apply(pipe.transformer)
    second, pipe.transformer_2 = pipe.transformer_2, None
    with pytest.raises(
        RecipeMismatchError,
        match=(
            "without a module named 'transformer_2'; allowed is a pipeline that has all of"
            " transformer, transformer_2"
        ),
    ):
        apply(pipe)
    pipe.transformer_2 = nn.Linear(2, 2)
    with pytest.raises(
        RecipeMismatchError, match=r"found a Linear; the recipe .* is for WanTransformer3DModel"
    ):
        apply(pipe)
    second.proj_out = nn.Identity()
    pipe.transformer_2 = second
    with pytest.raises(
        RecipeMismatchError, match=r"missing in the model 1 \(transformer_2.proj_out\)"
    ):
        apply(pipe)
    assert {type(pipe.transformer.get_submodule(fqn)) for fqn in linears(pipe.transformer)} == {
        nn.Linear
    }


# --- compiling and measuring ----------------------------------------------------------------------


def test_blocks_of_both_are_compiled() -> None:
    """Regions are both denoisers' blocks; patterns are counted over both, since a class has one
    limit; denoisers without blocks are compiled whole.
    """
    blocks = {
        name: nn.ModuleDict(
            {"blocks": nn.ModuleList(nn.Sequential(nn.Linear(4, 4)) for _ in range(2))}
        )
        for name in NAMES
    }
    both = joined(blocks)
    described, regions = regions_of(both)
    assert described == "numbered blocks (Sequential)"
    assert list(regions) == [f"{name}.blocks.{i}" for name in NAMES for i in range(2)]
    assert count_block_patterns(both, {}) == {"Sequential": 1}
    assert count_block_patterns(
        both, {"transformer.blocks.0.0": MXFP8, "transformer_2.blocks.1.0": NVFP4}
    ) == {"Sequential": 3}
    whole = {"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)}
    assert regions_of(joined(whole)) == ("the whole Linear", whole)


class Breaking(nn.Module):
    """A Linear and something that torch cannot have in one graph."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.linear(x)
        torch._dynamo.graph_break()
        return x + 1


def test_whole_denoisers_may_break_their_graphs() -> None:
    """As one denoiser without blocks may, each of two may: what it gives is the same, and compiled
    it is inside only.
    """
    whole, x = {"a": Breaking(), "b": Breaking()}, torch.ones(1, 4)
    with torch.no_grad():
        before = [part(x) for part in whole.values()]
        with CompiledRegions(joined(whole), backend="eager"):
            assert all(part._compiled_call_impl is not None for part in whole.values())
            assert all(
                torch.equal(part(x), was) for part, was in zip(whole.values(), before, strict=True)
            )
    assert all(part._compiled_call_impl is None for part in whole.values())


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_a_whole_run_is_timed_with_both_compiled(spec: StudySpec, mode: Any) -> None:
    """Inside, the blocks of both are compiled, and each marks its steps where CUDA graphs are
    replayed; afterwards none is, and no hook is left.
    """
    loaded = load_pipeline(spec, device="cpu")
    seen: list[bool] = []

    def run() -> None:
        parts = parts_of(loaded.denoiser).values()
        marked = {bool(part._forward_pre_hooks) for part in parts} == {mode == "reduce-overhead"}
        seen.append(
            marked and all(part.blocks[0]._compiled_call_impl is not None for part in parts)
        )
        Painter(loaded).draw(["a ring"], [0], batch_size=1, num_inference_steps=2)

    timing = measure_pipeline(
        run,
        loaded.denoiser,
        formats={},
        compile_mode=mode,
        device="cpu",
        warmups=0,
        repetitions=1,
        backend="eager",
    )
    assert seen == [True, True]
    assert timing.compiled == "repeated blocks (WanTransformerBlock)"
    assert all(
        child._compiled_call_impl is None and not child._forward_pre_hooks
        for child in loaded.denoiser.modules()
    )


def test_calls_of_both_are_timed_one_after_another(
    spec: StudySpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With random weights each denoiser is built, quantized by its own names and timed with its own
    calls.
    """
    built: list[nn.Module] = []

    def measure(make: Callable[[], nn.Module], calls: Any, *, formats: Any, **kwargs: Any) -> Any:
        built.append(make())
        asked.append((sorted(formats), len(calls)))
        return measure_calls(
            lambda: built[-1], calls, formats={}, **{**kwargs, "warmups": 0, "backend": "eager"}
        )

    asked: list[tuple[list[str], int]] = []
    monkeypatch.setattr(measuring, "measure_calls", measure)
    prices = price(spec, PriceRequest(format=MXFP8))
    formats = {"transformer.proj_out": MXFP8, "transformer_2.blocks.0.ffn.net.2": MXFP8}
    main = dataclasses.replace(prices.main, formats=formats)
    told = changed(spec, pricing={"stands_for": 1})
    runs = measure_runs(
        told,
        dataclasses.replace(prices, main=main),
        device="cpu",
        target="b200",
        weights="random",
        compile_mode="default",
        repetitions=1,
    )
    assert asked == [([], 1), ([], 1), (["proj_out"], 1), (["blocks.0.ffn.net.2"], 1)]
    assert [type(module) for module in built] == [WanTransformer3DModel] * 4
    assert [timing.calls for timing in runs.runs[0].timings] == [4, 4]
    assert runs.covers.startswith("8 denoiser calls")
