"""Random weights: a search without any, what it says of itself, and who refuses its recipe; and a
search that only says what it would take.
"""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from sensitivity.cli.app import app
from sensitivity.cli.render.plan import plan_tables
from sensitivity.consumers.exporters import to_diffusers, to_torchao
from sensitivity.core.environment import describe_environment
from sensitivity.core.format_name import FormatName
from sensitivity.errors import RecipeError, UserError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.latency import ShapeScale, stand_for
from sensitivity.latency.devices import get_device
from sensitivity.latency.predicted import PredictedLatency
from sensitivity.models.loading import load_pipeline
from sensitivity.recipes.recipe import load_recipe
from sensitivity.search.calibration import choosing
from sensitivity.search.calibration.jobs import EstimatorName
from sensitivity.search.calibration.stored import calibration_cost
from sensitivity.search.grouping import make_candidates
from sensitivity.search.store import Store
from sensitivity.spec.loading import load_spec
from sensitivity.spec.overrides import with_net, with_prompts, with_random_weights
from sensitivity.spec.prompts import read_prompts
from sensitivity.workflows import plan as planning
from sensitivity.workflows import run_seconds
from sensitivity.workflows.find import find_recipe
from sensitivity.workflows.plan import plan_search
from sensitivity.workflows.requests import SearchRequest

DEVICE = ["--device", "cpu"]


@pytest.fixture(scope="module")
def bare_study(
    tiny_study: Path, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The study of a folder with config files alone: no weights, no vocabularies."""
    folder = tmp_path_factory.mktemp("bare")
    shutil.copytree(
        tiny_folder,
        folder / "pipeline",
        ignore=shutil.ignore_patterns(
            "*.safetensors", "tokenizer.json", "vocab.json", "merges.txt", "spiece.model"
        ),
    )
    path = folder / "bare.toml"
    path.write_text(
        tiny_study.read_text()
        .replace(json.dumps(str(tiny_folder)), json.dumps(str(folder / "pipeline")))
        .replace("tiny-random", "bare")
    )
    return path


@pytest.fixture(scope="module")
def searched(bare_study: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """`search --weights random --budget 3` of that study: what it printed, its recipe and where
    that lies.
    """
    folder = tmp_path_factory.mktemp("searched")
    out = folder / "recipe.json"
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        arguments = [
            "search",
            "--model",
            bare_study,
            "--weights",
            "random",
            "--budget",
            "3",
            "--storage",
            folder / "s.db",
            "--out",
            out,
            *DEVICE,
        ]
        result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return {
        "output": result.output,
        "stdout": result.stdout,
        "recipe": json.loads(out.read_text()),
        "path": out,
        "folder": folder,
    }


def test_a_search_on_random_weights_says_so_everywhere(searched: dict[str, Any]) -> None:
    """The recipe, its name, and both streams have it; distances are above zero, so that pictures
    were not blank.
    """
    recipe = searched["recipe"]
    assert recipe["model"]["weights"] == "random"
    assert recipe["name"].startswith("bare-random-weights-")
    assert "bare-random-weights has RANDOM weights (seed 0)" in searched["stdout"]
    assert searched["output"].count("RANDOM weights") == 2
    assert recipe["fidelity"]["lpips"]["mean"] > 0


def test_nobody_takes_a_recipe_of_random_weights_unasked(
    searched: dict[str, Any], bare_study: Path
) -> None:
    """`apply`, both conversions, the exporters and `export` refuse it with the flag that allows it;
    with the flag they do what they do.
    """
    recipe = load_recipe(searched["path"])
    loaded = load_pipeline(with_random_weights(load_spec(bare_study)), device="cpu")
    for refused in (
        lambda: recipe.apply(loaded.pipe, emulate=True),
        lambda: to_torchao(recipe),
        lambda: to_diffusers(recipe),
    ):
        with pytest.raises(
            RecipeError,
            match=(
                r"searched on random weights.*expected a recipe of trained weights.*set"
                r" `allow_random_weights`"
            ),
        ):
            refused()
    assert recipe.apply(loaded.pipe, emulate=True, allow_random_weights=True).mode == "emulated"
    arguments = ["export", str(searched["path"]), "--to", "skip-list"]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, RecipeError)
    allowed = CliRunner().invoke(app, [*arguments, "--allow-random-weights"])
    assert allowed.exit_code == 0
    assert "random weights" in allowed.stdout


def test_verify_draws_a_random_recipe_again(
    searched: dict[str, Any], bare_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same seed gives the same weights, the same pictures, and the same held-out LPIPS."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(searched["folder"] / "cache"))
    result = CliRunner().invoke(
        app,
        [
            "verify",
            str(searched["path"]),
            "--model",
            str(bare_study),
            "--weights",
            "random",
            *DEVICE,
        ],
    )
    assert result.exit_code == 0, result.output
    assert "every prompt has the LPIPS that the recipe" in result.stdout
    assert "RANDOM weights" in result.output


def test_random_weights_are_no_others(bare_study: Path) -> None:
    """Two seeds, and the files themselves, are identified apart; one seed is one model; prompts
    reach the pictures.
    """
    spec = load_spec(bare_study)
    one, again = (load_pipeline(with_random_weights(spec, seed=1), device="cpu") for _ in range(2))
    other = load_pipeline(with_random_weights(spec, seed=2), device="cpu")
    assert one.weights_hash == again.weights_hash != other.weights_hash
    assert all(
        torch.equal(a, b)
        for a, b in zip(one.denoiser.parameters(), again.denoiser.parameters(), strict=True)
    )
    assert type(one.pipe).__name__ == "FluxPipeline"
    texts = [
        one.pipe.encode_prompt(prompt=text, prompt_2=None, max_sequence_length=32)
        for text in spec.prompts.search[:2]
    ]
    assert all(not torch.equal(a, b) for a, b in zip(texts[0][:2], texts[1][:2], strict=True))


def test_a_real_tokenizer_is_used_where_its_files_are(tiny_study: Path) -> None:
    """With vocabularies in the folder, texts are tokenized as they are for trained weights."""
    loaded = load_pipeline(with_random_weights(load_spec(tiny_study)), device="cpu")
    assert {
        type(loaded.pipe.tokenizer).__module__.split(".")[0],
        type(loaded.pipe.tokenizer_2).__module__.split(".")[0],
    } == {"transformers"}


def test_missing_lpips_weights_name_the_net_that_is_there(
    bare_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dry run without AlexNet's trunk is told of `net` tiny, before anything is loaded."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(
        "torch.hub.download_url_to_file",
        lambda *_a, **_o: (_ for _ in ()).throw(OSError("no network")),
    )
    monkeypatch.setattr(
        "sensitivity.workflows.prepare.load_pipeline", lambda *_a, **_o: pytest.fail("loaded")
    )
    spec = with_net(with_random_weights(load_spec(bare_study)), "alex")
    with pytest.raises(UserError, match=r"alexnet-owt-7be5be79.pth.*`net` tiny, which comes with"):
        find_recipe(spec, SearchRequest(budget=1, storage=tmp_path / "x.db"))


def test_a_dry_run_says_what_it_takes_and_leaves_nothing(
    bare_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`search --dry-run` prints memory, time and disk, as JSON too, loads no pipeline and writes no
    file but that.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(
        "sensitivity.workflows.prepare.load_pipeline", lambda *_a, **_o: pytest.fail("loaded")
    )
    result = CliRunner().invoke(
        app,
        [
            "search",
            "--model",
            str(bare_study),
            "--budget",
            "7",
            "--dry-run",
            "--json",
            "plan.json",
            *DEVICE,
        ],
    )
    assert result.exit_code == 0, result.output
    data = json.loads(Path("plan.json").read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]
    assert "7 trials" in result.stdout
    assert "nothing was loaded, generated or written" in result.stdout
    assert data["total_s"] == pytest.approx(sum(data["steps_s"].values()))
    assert data["steps_s"]["7 trials"] == pytest.approx(7 * data["trial_s"])
    assert (
        data["references_bytes"] == (3 + 3 + 3 + 3) * 3 * 64 * 64 * 4
    )  # search prompts together, one by one and with other seeds, held-out ones; fp32
    assert data["memory"]["peak_bytes"] == sum(data["memory"]["stages"][0]["parts"].values())


def test_a_plan_follows_the_price_model_where_it_knows_the_gpu(
    bare_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU by name, the bf16 time of a picture is the price model's, and quantized trials take
    as much longer as the slowest of their formats.
    """
    spec = load_spec(bare_study)
    here = describe_environment("cpu") | {"device": "NVIDIA H100 80GB HBM3"}
    monkeypatch.setattr(run_seconds, "describe_environment", lambda _device: here)
    monkeypatch.setattr("sensitivity.workflows.requests.check_device", lambda _device: None)
    monkeypatch.setattr("sensitivity.workflows.sizing.free_bytes", lambda _device: 80 * 10**9)
    plan = plan_search(spec, SearchRequest(budget=10, device="cuda"))
    assert "predicted for h100" in plan.source
    assert plan.trial_s == pytest.approx(3 * plan.picture_s * 1.58)
    assert plan.sizes.peak.nbytes > 2.5e9


def test_a_plan_says_which_prompts_were_read(
    bare_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The column, what was left out and the first prompts are in the plan, its JSON and its table,
    where brackets are no markup; prompts that a study states have no file.
    """
    monkeypatch.setattr(planning, "seconds_of_run", lambda *_: (1.0, "a test"))
    (tmp_path / "table.csv").write_text(
        "Prompts,Category\n" + "\n".join(f'"a fox, {i} [/b]",x' for i in range(9))
    )
    spec = load_spec(bare_study)
    assert plan_search(spec, SearchRequest(budget=1)).prompts is None
    spec = with_prompts(spec, read_prompts(tmp_path / "table.csv"))
    plan = plan_search(spec, SearchRequest(budget=1))
    assert (plan.pictures, plan.held_out) == (4, 5)
    said = plan.to_json()["prompts"]
    assert (said["kind"], said["field"], said["left_out"]) == ("CSV", "Prompts", ["Category"])
    assert said["first"] == [f"a fox, {i} [/b]" for i in range(3)]
    console = Console(width=300, record=True, file=io.StringIO())
    console.print(plan_tables(plan))
    assert "9 prompts of table.csv (CSV, 'Prompts'; left out: Category): \"a fox, 0 [/b]\"" in (
        console.export_text()
    )


@pytest.mark.parametrize("bound", ["TIMED_BYTES", "TIMED_S"])
def test_a_plan_guesses_from_a_gemm_elsewhere(
    bound: str, bare_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a denoiser that is too large or too slow to be timed, FLOPs are divided by the rate of a
    GEMM, and the plan says that it is a guess.
    """
    monkeypatch.setattr(run_seconds, bound, 0)
    monkeypatch.setattr(run_seconds, "_gemm_flops_per_s", lambda _device: 1e9)
    plan = plan_search(load_spec(bare_study), SearchRequest(budget=10))
    assert "a guess" in plan.source
    run = planning.run_shapes(load_spec(bare_study), batch_size=3).table.run
    assert run is not None
    flops = sum(
        part.linear_flops
        + part.conv_flops
        + part.matmul_flops
        + sum(a.flops for a in part.attention)
        for part in run.components
    )
    assert plan.picture_s == pytest.approx(flops / 1e9 / 3)


@pytest.mark.parametrize("default", ["gradient", "rollout"])
def test_calibrating_is_planned_as_it_is_counted(
    evaluator: Evaluator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, default: str
) -> None:
    """What a plan says that layer sensitivities take is what `calibration_cost` says then, in bf16
    pictures; without calibration it is nothing.
    """
    monkeypatch.setattr(choosing, "DEFAULT", EstimatorName(default))
    request = SearchRequest(formats=(FormatName.NVFP4,))
    plan = plan_search(evaluator.spec, request)
    candidates = make_candidates(
        stand_for(evaluator.profile(), ShapeScale(factor=evaluator.spec.pricing.stands_for)),
        evaluator.spec,
        formats=request.formats,
        latency=PredictedLatency(get_device("b200")),
    )
    with Store.open(tmp_path / "study.db") as store:
        cost = calibration_cost(evaluator, candidates, store)
    calls = 2  # one for each step of a run
    assert cost.estimator == default
    assert plan.steps_s["layer sensitivities"] == pytest.approx(
        plan.picture_s * cost.picture_calls / calls
    )
    plain = plan_search(evaluator.spec, replace(request, calibrated=False))
    assert plain.steps_s["layer sensitivities"] == 0
