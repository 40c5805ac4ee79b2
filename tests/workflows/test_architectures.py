"""Folders of many architectures, as plain diffusers saves them, are searched without a study. A
recipe that is applied to the plain pipeline gives the pictures that the search scored.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

from sensitivity.cli.app import app
from sensitivity.consumers.exporters import EXPORTERS, get_exporter
from sensitivity.consumers.served_names import CONSUMERS, name_tables
from sensitivity.core.format_name import FormatName
from sensitivity.errors import RecipeError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.fidelity.references import default_cache_folder
from sensitivity.models.generating import MediaGenerator
from sensitivity.models.media import Media
from sensitivity.recipes.recipe import Recipe, load_recipe
from sensitivity.shapes.deriving import derive_study
from sensitivity.spec.loading import resolve_spec
from sensitivity.spec.overrides import with_net, with_prompts
from sensitivity.spec.prompts import PromptSection
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.conclude import SearchOutcome
from sensitivity.workflows.find import find_recipe
from sensitivity.workflows.requests import SearchRequest
from sensitivity.workflows.verify import verify_recipe

from support.whole_pipelines import save_whole

SERVED = {kind for consumer in CONSUMERS for kind in name_tables(consumer)}
NAMED = (*CONSUMERS, "convert-to-quant")
"""Exporters that know the names of these classes alone."""
ARCHITECTURES = (
    "flux2",
    "ltx2",
    "sana",
    "sdxl",
)
CALIBRATED = ("flux2", "ltx2", "sana", "sdxl")
"""Searches that measure layer sensitivities; the others save the time."""
WITHOUT_REPEATED_BLOCKS = ("sana",)
PROMPTS = PromptSection(search=("a red ring", "blue star"), held_out=("a green square", "dog"))


@dataclass(frozen=True)
class Searched:
    """A folder, the study that was derived from it, the outcome of its search, its cache of
    references, and {formats: pictures of the held-out prompts} that the search generated.
    """

    name: str
    folder: Path
    spec: StudySpec
    outcome: SearchOutcome
    cache: Path
    generated: dict[str, Media]

    @property
    def recipe(self) -> Recipe:
        assert self.outcome.recipe is not None
        return self.outcome.recipe

    def plain(self) -> Any:
        """The pipeline as its users load it."""
        pipe = diffusers.DiffusionPipeline.from_pretrained(self.folder, dtype=torch.bfloat16)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    @cached_property
    def denoiser(self) -> Any:
        """The plain pipeline's denoiser, loaded once: for its names only."""
        return getattr(self.plain(), self.spec.model.component)

    @cached_property
    def linears(self) -> list[str]:
        """The Linears of the plain pipeline's denoiser."""
        modules = self.denoiser.named_modules()
        return [fqn for fqn, child in modules if isinstance(child, nn.Linear)]


def derived(folder: Path, settings: dict[str, Any]) -> StudySpec:
    """The study of `--model FOLDER`, with small pictures and two steps, priced as if each dimension
    were 64 times as large.
    """
    spec = derive_study(with_prompts(with_net(resolve_spec(str(folder)), "tiny"), PROMPTS))
    pricing = spec.pricing.model_copy(update={"stands_for": 64})
    return spec.model_copy(
        update={
            "settings": spec.settings | settings | {"num_inference_steps": 2},
            "pricing": pricing,
        }
    )


@pytest.fixture(scope="module", params=ARCHITECTURES)
def searched(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Searched]:
    """A search of three trials. The fastest skip-list wins, so that the recipe quantizes."""
    root = tmp_path_factory.mktemp(request.param)
    spec = derived(root / "pipeline", save_whole(request.param, root / "pipeline"))
    generated: dict[str, Media] = {}
    real = Evaluator.generate

    def generate(self: Evaluator, formats: Any, split: Any, **rest: Any) -> Media:
        media = real(self, formats, split, **rest)
        if split == "held_out":
            generated[json.dumps(dict(formats))] = media
        return media

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Evaluator, "generate", generate)
        patch.setenv("XDG_CACHE_HOME", str(root / "user"))
        cache = default_cache_folder()  # `verify_recipe` finds the references there
        formats = (FormatName.MXFP8, FormatName.NVFP4)
        asked = SearchRequest(
            formats=formats,
            budget=1,
            max_lpips=100.0,
            storage=root / "study.db",
            cache_folder=cache,
            calibrated=request.param in CALIBRATED,
        )
        outcome = find_recipe(spec, asked)
        yield Searched(request.param, root / "pipeline", spec, outcome, cache, generated)


def generate_plainly(pipe: Any, spec: StudySpec) -> Media:
    """Pictures of the held-out prompts as a user of diffusers generates them: `search.batch_size`
    together, with one generator each.
    """
    parts, size = [], spec.search.batch_size
    for start in range(0, len(PROMPTS.held_out), size):
        texts = list(PROMPTS.held_out[start : start + size])
        generators = [
            torch.Generator().manual_seed(PROMPTS.held_out_seed + start + i)
            for i in range(len(texts))
        ]
        negative = (
            {"negative_prompt": [spec.settings["negative_prompt"]] * len(texts)}
            if "negative_prompt" in spec.settings
            else {}
        )
        with torch.no_grad():
            output = pipe(
                prompt=texts, **(spec.settings | negative), generator=generators, output_type="pt"
            )
        clips = getattr(output, "frames", None)
        parts.append(
            Media(pictures=output.images.float() * 2 - 1)
            if clips is None
            else Media.of_clips(clips)
        )
    return Media.joined(parts)


def test_a_search_ends_in_a_recipe(searched: Searched, tmp_path: Path) -> None:
    """Baselines and a trial make a recipe that is read back equal, names every Linear once,
    quantizes some, and has a reason for those that no group holds.
    """
    recipe, candidates = searched.recipe, searched.outcome.prepared.candidates
    assert searched.outcome.result.tried == 1
    assert load_recipe(recipe.save(tmp_path / "recipe.json")) == recipe
    assert sorted(recipe.layers) == sorted(searched.linears)
    grouped = [fqn for group in candidates.groups for fqn in group.fqns]
    assert Counter([*grouped, *candidates.fixed]) == Counter(searched.linears)
    assert all(candidates.fixed.values())
    assert set(recipe.layers) - set(recipe.skip)
    assert recipe.fidelity.lpips.mean > 0


def test_an_applied_recipe_gives_the_scored_pictures(searched: Searched) -> None:
    """A plain pipeline gives the cached references, bit by bit. With the recipe applied it gives
    what the search scored.
    """
    pipe, spec, recipe = searched.plain(), searched.spec, searched.recipe
    before = generate_plainly(pipe, spec)
    kept = [load_file(path)["pictures"] for path in searched.cache.glob("*.safetensors")]
    assert any(torch.equal(before.pictures, pictures) for pictures in kept)
    report = recipe.apply(pipe, emulate=True)
    assert report.layers == recipe.layers
    after = generate_plainly(pipe, spec)
    assert torch.equal(after.pictures, searched.generated[json.dumps(dict(recipe.layers))].pictures)
    assert not torch.equal(after.pictures, before.pictures)
    distances = searched.outcome.prepared.evaluator.comparison.lpips(after, before)[0]
    assert tuple(distances.tolist()) == recipe.fidelity.lpips.per_prompt


def test_verify_says_the_same(searched: Searched) -> None:
    """Loaded and generated again, the held-out prompts have the recipe's LPIPS to the last bit."""
    assert (
        verify_recipe(searched.recipe, searched.spec, device="cpu").per_prompt
        == searched.recipe.fidelity.lpips.per_prompt
    )


@pytest.mark.parametrize("consumer", EXPORTERS)
def test_every_export_means_the_recipe(searched: Searched, consumer: str) -> None:
    """Each consumer, by its own rule, would give the plain pipeline's Linears the recipe's formats;
    what it cannot express it refuses, and then takes the nearest.
    """
    exporter, recipe = get_exporter(consumer), searched.recipe
    if exporter.obstacles(recipe):
        with pytest.raises(RecipeError, match="cannot express"):
            exporter.export(recipe)
        if type(searched.denoiser).__name__ not in SERVED and consumer in NAMED:
            with pytest.raises(RecipeError, match="use another exporter"):
                exporter.nearest(recipe)
            return
        layers = exporter.nearest(recipe)
        skip = tuple(fqn for fqn, name in layers.items() if name is FormatName.BF16)
        recipe = recipe.model_copy(update={"layers": layers, "skip": skip, "patterns": ()})
    assert exporter.assign(exporter.export(recipe), recipe, searched.linears) == recipe.layers
    assert exporter.verify(recipe, searched.linears) == recipe.layers


def test_two_batch_sizes_give_similar_pictures(searched: Searched) -> None:
    """bf16's pictures generated one by one and two together differ by far less than the mildest
    quantization changes them; the recipe states by how much.
    """
    media_generator = MediaGenerator(searched.outcome.prepared.evaluator.loaded)
    alone, together = (
        media_generator.generate(PROMPTS.search, [0, 1], batch_size=size) for size in (1, 2)
    )
    floor = float(searched.outcome.prepared.evaluator.comparison.lpips(alone, together)[0].mean())
    assert floor < 0.2 * min(
        trial.score.mean for trial in searched.outcome.result.trials if any(trial.choice)
    )
    assert searched.recipe.fidelity.lpips.noise_floor == (
        None if searched.spec.search.batch_size == 1 else floor
    )


def test_blocks_that_diffusers_does_not_list_are_found(searched: Searched) -> None:
    """Some of these denoisers have no `_repeated_blocks`; their groups are depth bands of numbered
    blocks all the same.
    """
    assert (not searched.denoiser._repeated_blocks) == (searched.name in WITHOUT_REPEATED_BLOCKS)
    assert searched.recipe.block_patterns
    assert any("[0" in group.name for group in searched.outcome.prepared.candidates.groups)


# --- through the real command line ----------------------------------------------------------------


def test_a_folder_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`search --model FOLDER` and `export` of SDXL in FP8: its empty negative prompt is all zeros.

    torchao divides by zero where a row of an FP8 operand is zero, so the layers that read that
    prompt give NaN: they are named, and left out of the search.
    """
    save_whole("sdxl", tmp_path / "pipeline")
    (tmp_path / "mine.toml").write_text(
        f"search = {json.dumps(PROMPTS.search)}\nheld_out = {json.dumps(PROMPTS.held_out)}\n"
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    small = ["--set", "height=64", "--set", "width=64", "--steps", "2"]
    of = ["--net", "tiny", "--prompts", "mine.toml", "--device", "cpu"]
    search = [
        "search",
        "--model",
        "pipeline",
        "--format",
        "fp8",
        "--target",
        "h100",
        "--budget",
        "2",
        "--out",
        "r.json",
        "--save-study",
        "sdxl.toml",
    ]
    done = CliRunner().invoke(app, [*search, *small, *of])
    assert done.exit_code == 0, done.output
    assert (
        "left out of the search:"
        " down_blocks.attentions.transformer_blocks.attn2.to_k+to_v[1.0.0-1.0.1] in fp8"
        in done.stdout
    )
    recipe = load_recipe("r.json")
    assert recipe.search.trials == 0
    assert "0 of 2 trials: no group of Linears is faster quantized" in done.stdout
    assert {fqn for fqn in recipe.layers if ".attn2.to_k" in fqn or ".attn2.to_v" in fqn} <= set(
        recipe.skip
    )
    exported = CliRunner().invoke(app, ["export", "r.json", "--to", "skip-list"])
    assert exported.exit_code == 0, exported.output
    assert [line for line in exported.stdout.splitlines() if not line.startswith("#")] == list(
        recipe.skip
    )
