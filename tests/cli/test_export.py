"""`export`: every reader and form, the proof on a real model, and the nearest recipe where a reader
cannot express one.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from sensitivity.cli.app import app
from sensitivity.consumers.exporters import EXPORTERS, get_exporter
from sensitivity.core.format_name import FormatName
from sensitivity.errors import RecipeError, RecipeMismatchError, UserError
from sensitivity.latency.pricer import Pricer
from sensitivity.recipes.recipe import Recipe, load_recipe
from sensitivity.recipes.unverified import priced_recipe, safe_name
from sensitivity.shapes.run import run_shapes
from sensitivity.shapes.shape_run import ShapeRun
from sensitivity.spec.loading import resolve_spec
from sensitivity.workflows.model_linears import linears_of
from sensitivity.workflows.nearest import nearest_recipe

from support.policies import with_steps

SPEC = resolve_spec("tiny-flux")
NOTICE = "priced for a test"


@pytest.fixture(scope="module")
def run() -> ShapeRun:
    """tiny-flux, without weights."""
    return run_shapes(SPEC)


@pytest.fixture(scope="module")
def one(run: ShapeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe with one quantized format, in a file."""
    return priced(run, lambda _role: FormatName.NVFP4).save(
        tmp_path_factory.mktemp("one") / "one.json"
    )


@pytest.fixture(scope="module")
def two(run: ShapeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe with nvfp4, and mxfp8 in all of ff: a skip-list cannot say it."""
    made = priced(run, lambda role: FormatName.MXFP8 if ".ff." in role else FormatName.NVFP4)
    return made.save(tmp_path_factory.mktemp("two") / "two.json")


def priced(run: ShapeRun, choose: Any) -> Recipe:
    formats = {x.fqn: choose(x.role) for x in run.table.linears if x.block}
    return priced_recipe(
        Pricer.of(SPEC, run).price("made", formats), run, SPEC, name="made", notice=NOTICE
    )


def invoke(*arguments: object) -> Any:
    """The command; a mistake is raised as it is, since `main` makes its exit code."""
    return CliRunner().invoke(app, ["export", *map(str, arguments)], catch_exceptions=True)


# --- the recipe of a priced list ------------------------------------------------------------------


def test_a_priced_recipe_says_what_it_is(run: ShapeRun, one: Path) -> None:
    """Every Linear has a format, seconds are predicted, nothing was tried, no quality is claimed;
    bytes are those of the weights.
    """
    recipe = load_recipe(one)
    assert set(recipe.layers) == {x.fqn for x in run.table.linears} | set(run.table.uncalled)
    assert (recipe.is_unverified, recipe.verified, recipe.caveat) == (
        True,
        None,
        f"UNVERIFIED: {NOTICE}",
    )
    assert (
        recipe.search.budget,
        recipe.search.trials,
        recipe.search.sampler,
        recipe.latency.source,
    ) == (0, 0, "none", "predicted")
    quantized = [x for x in run.table.linears if recipe.layers[x.fqn] is FormatName.NVFP4]
    saved = recipe.memory.bf16_bytes - recipe.memory.quantized_bytes
    codes = sum(x.k * x.n for x in quantized)
    assert 1.3 * codes < saved < 1.5 * codes  # of 2 bytes, a half and scales are left
    assert recipe.model.component_class == "FluxTransformer2DModel"


def test_a_slower_list_is_a_recipe_too(run: ShapeRun) -> None:
    """What loses is priced and kept."""
    small = {
        x.fqn: FormatName.NVFP4
        for x in run.table.linears
        if x.role == "time_text_embed.timestep_embedder.linear_2"
    }
    assert small
    recipe = priced_recipe(
        Pricer.of(SPEC, run).price("slow", small), run, SPEC, name="slow", notice=NOTICE
    )
    assert recipe.latency.speedup < 1


def test_a_format_that_refuses_a_linear_is_no_recipe(run: ShapeRun) -> None:
    """K = 16 takes no nvfp4."""
    with pytest.raises(UserError, match=r"found x_embedder in nvfp4: .*leave it in bf16"):
        priced_recipe(
            Pricer.of(SPEC, run).price("all", {"x_embedder": FormatName.NVFP4}),
            run,
            SPEC,
            name="all",
            notice=NOTICE,
        )


def test_names_are_safe_as_file_names() -> None:
    """Separators, control characters, marks of direction and a dot in front become hyphens; nothing
    is still a name.
    """
    given = ("a b:1", "../x", "a/b\\c\n", "a\u202eb\x9b\u2028", "", "x" * 300)
    assert [safe_name(text) for text in given] == [
        "a b:1",
        "-.-x",
        "a-b-c-",
        "a-b--",
        "recipe",
        "x" * 256,
    ]


# --- text -----------------------------------------------------------------------------------------


def test_help_names_every_reader_and_form() -> None:
    """What can be asked for is in the help, from the registry."""
    text = " ".join(
        CliRunner()
        .invoke(app, ["export", "--help"], env={"COLUMNS": "2000", "TERMINAL_WIDTH": "2000"})
        .stdout.split()
    )
    for name, kind in EXPORTERS.items():
        assert name in text
        if len(kind.forms) > 1:
            assert f"{name}: {', '.join(kind.forms)}" in text


def test_the_form_that_is_asked_for(one: Path, tmp_path: Path) -> None:
    """`--form` chooses, "" is the first, another is refused with those that there are."""
    assert "transformer_blocks.0" not in invoke(one, "--to", "skip-list", "--form", "globs").stdout
    first = invoke(one, "--to", "skip-list").stdout
    assert first == get_exporter("skip-list").export(load_recipe(one))
    assert (
        invoke(one, "--to", "skip-list", "--form", "fqns", "--out", tmp_path / "list.txt").exit_code
        == 0
    )
    assert (tmp_path / "list.txt").read_text() == first
    wrong = invoke(one, "--to", "skip-list", "--form", "yaml")
    assert isinstance(wrong.exception, RecipeError)
    assert "found the form 'yaml' of skip-list; expected one of fqns" in str(wrong.exception)


def test_the_caveat_stands_in_the_text_and_beside_it(one: Path) -> None:
    """An unverified recipe says so in its header, in the JSON, and to the one who exports it;
    stdout holds the text alone.
    """
    result = invoke(one, "--to", "skip-list")
    assert f"# UNVERIFIED: {NOTICE}" in result.stdout.splitlines()
    assert f"UNVERIFIED: {NOTICE}" in " ".join(result.stderr.split())
    assert all(
        line.startswith("#") or line in load_recipe(one).skip for line in result.stdout.splitlines()
    )
    data = json.loads(invoke(one, "--to", "skip-list", "--json", "-").stdout)
    assert data["notice"] == f"UNVERIFIED: {NOTICE}"
    assert data["text"] == result.stdout


# --- the proof ------------------------------------------------------------------------------------


def test_the_proof_on_a_model(one: Path, tmp_path: Path) -> None:
    """The text is held against the modules of the model, and what was proved is said and in the
    JSON.
    """
    result = invoke(
        one,
        "--to",
        "torchao",
        "--model",
        "tiny-flux",
        "--out",
        tmp_path / "a.json",
        "--json",
        tmp_path / "b.json",
    )
    recipe = load_recipe(one)
    quantized = len(recipe.layers) - len(recipe.skip)
    words = (
        f"gives the {len(recipe.layers)} Linears of tiny-flux, transformer"
        " (FluxTransformer2DModel), exactly the recipe's formats: "
    )
    assert words + f"{len(recipe.skip)} bf16, {quantized} nvfp4" in " ".join(result.stdout.split())
    proved = json.loads((tmp_path / "b.json").read_text())["proved"]
    assert proved["formats"] == {"bf16": len(recipe.skip), "nvfp4": quantized}


def test_the_proof_is_of_real_modules(run: ShapeRun, one: Path) -> None:
    """The names are those of the modules, not of the recipe: one Linear more in the model, or
    another class, ends it before a text is out.
    """
    recipe = load_recipe(one)
    assert sorted(linears_of(recipe, SPEC)) == sorted(
        {x.fqn for x in run.table.linears} | set(run.table.uncalled)
    )
    fewer = recipe.model_dump(mode="json") | {"patterns": []}
    del fewer["layers"]["proj_out"]
    path = Recipe.from_mapping(fewer).save(one.with_name("fewer.json"))
    result = invoke(path, "--to", "torchao", "--model", "tiny-flux")
    assert "proj_out is not in the recipe" in str(result.exception)
    assert result.stdout == ""
    with pytest.raises(
        RecipeMismatchError,
        match=r"is for transformer \(FluxTransformer2DModel\), and sdxl has none there",
    ):
        linears_of(recipe, resolve_spec("sdxl"))


# --- nearest --------------------------------------------------------------------------------------


def test_what_cannot_be_expressed_is_refused_and_the_way_out_named(
    two: Path, tmp_path: Path
) -> None:
    """Nothing is written, the reasons and `--nearest` are in the message."""
    result = invoke(two, "--to", "skip-list", "--out", tmp_path / "list.txt")
    assert isinstance(result.exception, RecipeError)
    assert "the recipe has 2 (mxfp8, nvfp4)" in str(result.exception)
    assert "--nearest" in str(result.exception)
    assert not (tmp_path / "list.txt").exists()


def test_the_nearest_recipe(two: Path) -> None:
    """It has mxfp8 where the recipe has nvfp4, is slower, unverified, expressible, and of the same
    model; seconds are those of two lists priced alike.
    """
    recipe, exporter = load_recipe(two), get_exporter("skip-list")
    found = nearest_recipe(recipe, exporter, SPEC)
    nvfp4 = {fqn for fqn, name in recipe.layers.items() if name is FormatName.NVFP4}
    assert found.changed == dict.fromkeys(nvfp4, (FormatName.NVFP4, FormatName.MXFP8)) | {}
    assert found.recipe.skip == recipe.skip
    assert set(found.recipe.layers.values()) == {FormatName.BF16, FormatName.MXFP8}
    assert found.recipe.model == recipe.model
    assert found.recipe.caveat.startswith(
        "UNVERIFIED: the nearest that skip-list (fqns) can express to the recipe 'made'"
    )
    assert found.before.estimate.quantized_s == pytest.approx(recipe.latency.quantized_s)
    assert (
        found.after.estimate.quantized_s
        == found.recipe.latency.quantized_s
        > recipe.latency.quantized_s
    )
    assert exporter.export(found.recipe)


def test_the_nearest_recipe_takes_every_shape(run: ShapeRun) -> None:
    """A Linear that has fp8, which takes its K = 16 or 48, and would get mxfp8, which does not,
    stays in bf16.
    """
    formats = {x.fqn: FormatName.FP8 for x in run.table.linears}
    found = nearest_recipe(
        priced_recipe(
            Pricer.of(SPEC, run).price("made", formats), run, SPEC, name="made", notice=NOTICE
        ),
        get_exporter("comfyui"),
        SPEC,
    )
    assert set(found.recipe.skip) == {
        "x_embedder",
        "time_text_embed.text_embedder.linear_1",
        *run.table.uncalled,
    }
    assert set(found.recipe.layers.values()) == {FormatName.BF16, FormatName.MXFP8}


def test_the_nearest_recipe_on_the_command_line(two: Path, one: Path, tmp_path: Path) -> None:
    """It is written, what changed is said in Linears, seconds and speedup, with the command that
    exports it; where none is needed, none is written.
    """
    path = tmp_path / "near.json"
    result = invoke(two, "--to", "skip-list", "--nearest", path, "--json", tmp_path / "said.json")
    assert result.exit_code == 0
    said, data = " ".join(result.stdout.split()), json.loads((tmp_path / "said.json").read_text())
    assert f"{len(data['changed'])} from nvfp4 to mxfp8" in said
    assert (
        f"speedup {data['latency']['bf16_s'] / data['latency']['recipe_s']:.3f}x ->"
        f" {load_recipe(path).latency.speedup:.3f}x" in said
    )
    assert f"sensitivity export {path} --to skip-list --form fqns" in said
    assert invoke(path, "--to", "skip-list").exit_code == 0
    unneeded = invoke(one, "--to", "skip-list", "--nearest", tmp_path / "none.json")
    assert "can express made as it is: nothing was written" in " ".join(unneeded.stdout.split())
    assert not (tmp_path / "none.json").exists()


def test_mistakes_are_said_before_anything_is_written(two: Path, one: Path, tmp_path: Path) -> None:
    """Two results in one file, a result over the recipe, `--nearest` with `--out`, a study that
    nobody knows.
    """
    strange = load_recipe(two).model_dump(mode="json")
    strange["search"]["study"] = "mine"
    unknown = Recipe.from_mapping(strange).save(tmp_path / "unknown.json")
    before = one.read_bytes()
    for arguments, message in (
        ((one, "--to", "skip-list", "--out", one), "is the file of RECIPE"),
        (
            (
                two,
                "--to",
                "skip-list",
                "--nearest",
                tmp_path / "n.json",
                "--out",
                tmp_path / "o.txt",
            ),
            "--nearest and --out are both given",
        ),
        (
            (unknown, "--to", "skip-list", "--nearest", tmp_path / "n.json"),
            "the study 'mine'.*set --model",
        ),
        ((two, "--to", "skip-lists"), "did you mean 'skip-list'"),
    ):
        result = invoke(*arguments)
        assert isinstance(result.exception, UserError)
        with pytest.raises(UserError, match=message):
            raise result.exception
    assert one.read_bytes() == before
    assert not (tmp_path / "n.json").exists()
    assert (
        invoke(
            unknown, "--to", "skip-list", "--nearest", tmp_path / "n.json", "--model", "tiny-flux"
        ).exit_code
        == 0
    )


@pytest.mark.parametrize("name", EXPORTERS)
def test_every_reader_expresses_a_recipe_or_something_near(name: str, two: Path, one: Path) -> None:
    """For each reader, in each form: the text of a recipe, or reasons and a nearest recipe that it
    does express.
    """
    for form in EXPORTERS[name].forms:
        exporter = EXPORTERS[name](form=form)
        for path in (one, two):
            recipe = load_recipe(path)
            try:
                text = exporter.export(recipe)
            except RecipeError as error:
                assert "found" in str(error)  # noqa: PT017 - not every reader refuses
                if exporter.obstacles(recipe):
                    assert not exporter.obstacles(nearest_recipe(recipe, exporter, SPEC).recipe)
            else:
                assert text.strip()


def test_stored_sensitivities_say_what_the_nearest_recipe_protects(
    two: Path, run: ShapeRun, tmp_path: Path
) -> None:
    """The part of the calibrated damage that the changed Linears carry: squares of errors add up,
    and Linears that keep their format do not count.
    """
    from sensitivity.search.store import Store, assignment_key

    recipe, errors = load_recipe(two), dict[str, float]()
    for linear in run.table.linears:
        if linear.block:
            errors[linear.fqn] = 3.0 if recipe.layers[linear.fqn] is FormatName.NVFP4 else 1.0
    with Store.open(tmp_path / "study.db") as store:
        for fqn, error in errors.items():
            store.save_sensitivity("calibration", assignment_key({fqn: FormatName.NVFP4}), error)
    found = nearest_recipe(recipe, get_exporter("skip-list"), SPEC, storage=tmp_path / "study.db")
    part = sum(errors[fqn] ** 2 for fqn in found.changed) / sum(
        error**2 for error in errors.values()
    )
    assert found.damage == {FormatName.NVFP4: pytest.approx(part)}
    assert 0.5 < part < 1
    assert (
        nearest_recipe(recipe, get_exporter("skip-list"), SPEC, storage=tmp_path / "none.db").damage
        == {}
    )


# --- wherever a recipe is shown -------------------------------------------------------------------


def test_the_price_of_an_unverified_recipe_says_so(one: Path) -> None:
    """`latency --recipe` prints its caveat and has it in the JSON; the seconds are the recipe's
    own.
    """
    result = CliRunner().invoke(app, ["latency", "--model", "tiny-flux", "--recipe", str(one)])
    assert f"made: UNVERIFIED: {NOTICE}" in " ".join(result.stdout.split())
    data = json.loads(
        CliRunner()
        .invoke(app, ["latency", "--model", "tiny-flux", "--recipe", str(one), "--json", "-"])
        .stdout
    )
    assert data["notice"] == f"UNVERIFIED: {NOTICE}"
    assert data["quantized_s"] == pytest.approx(load_recipe(one).latency.quantized_s)


def test_verify_draws_what_an_unverified_recipe_lacks(tiny_study: Path, tmp_path: Path) -> None:
    """It is applied like any other; its LPIPS is given, with nothing to compare it with."""
    spec = resolve_spec(str(tiny_study))
    made = run_shapes(spec)
    formats = {x.fqn: FormatName.MXFP8 for x in made.table.linears if x.block}
    recipe = priced_recipe(
        Pricer.of(spec, made).price("x", formats), made, spec, name="x", notice=NOTICE
    )
    path = recipe.save(tmp_path / "x.json")
    result = CliRunner().invoke(
        app, ["verify", str(path), "--model", str(tiny_study), "--json", str(tmp_path / "v.json")]
    )
    assert result.exit_code == 0
    assert f"states no LPIPS to compare with (UNVERIFIED: {NOTICE})" in " ".join(
        result.stdout.split()
    )
    data = json.loads((tmp_path / "v.json").read_text())
    assert data["lpips"] > 0
    assert (data["recipe_lpips"], data["recipe_ci95"], data["inside"]) == (None, None, None)


def test_apply_reports_the_caveat(one: Path) -> None:
    """Whoever applies it in code is told, too."""
    from sensitivity.models.skeleton import build_component

    module = build_component(SPEC).to_empty(device="cpu")
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    assert load_recipe(one).apply(module, emulate=True).caveat == f"UNVERIFIED: {NOTICE}"


# --- steps ----------------------------------------------------------------------------------------


def test_a_step_policy_needs_a_reader_that_has_one(one: Path, tmp_path: Path) -> None:
    """The refusal names the option, with which the list alone is written and says so; where a form
    of the reader carries the policy, that form is taken.
    """
    made = with_steps(load_recipe(one), first_steps=1, steps=8).save(tmp_path / "steps.json")
    refused = invoke(made, "--to", "skip-list")
    assert isinstance(refused.exception, RecipeError)
    assert "it runs every step alike, and the recipe runs its first 1 step in W x A16" in str(
        refused.exception
    )
    alone = invoke(made, "--to", "skip-list", "--without-step-policy", "--json", "-")
    data = json.loads(alone.stdout)
    assert "without its step policy (first 1 step in W x A16)" in data["text"]
    assert data["step_policy"] is None
    data = json.loads(invoke(made, "--to", "torchao", "--json", "-").stdout)
    assert (data["form"], data["step_policy"]["first_steps"]) == ("filter-fn", 1)


def test_no_nearest_recipe_drops_a_step_policy(one: Path) -> None:
    """Its steps would be coarser; the nearest keeps the policy where formats alone hinder."""
    recipe = with_steps(load_recipe(one), mode="bf16", steps=8)
    with pytest.raises(RecipeError, match="runs every step alike"):
        nearest_recipe(recipe, get_exporter("skip-list"), SPEC)
    found = nearest_recipe(recipe, get_exporter("torchao", form="filter-fn"), SPEC)
    assert found.recipe.assignment.policy == recipe.assignment.policy
    assert found.recipe.memory.beside_bytes > 0
    assert found.after.estimate.quantized_s == found.before.estimate.quantized_s
