"""Folders that plain diffusers saved, of many architectures, each through search, recipe and apply: what is applied draws what was scored."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file
from whole_pipelines import save_whole

from sensitivity.deriving import derive_study
from sensitivity.dry_runs import with_net
from sensitivity.media import Media
from sensitivity.prompts import PromptSection
from sensitivity.recipe import Recipe
from sensitivity.scoring import Evaluator
from sensitivity.spec import FormatName, StudySpec, resolve_spec, with_prompts
from sensitivity.workflow import SearchOutcome, SearchRequest, find_recipe

ASKED = ("flux", "flux2", "qwen", "ltx2", "wan", "sd3", "pixart", "sana", "sdxl", "zimage")
OTHERS = ("chroma", "mochi")
PROMPTS = PromptSection(search=("a red ring", "blue star"), held_out=("a green square", "dog"))
FORMATS = (FormatName.MXFP8, FormatName.NVFP4)


@dataclass(frozen=True)
class Searched:
    """A folder, the study that was derived from it, what its search found, and all that was drawn on the way."""

    name: str
    folder: Path
    spec: StudySpec
    outcome: SearchOutcome
    cache: Path
    drawn: dict[tuple[str, str], Media]

    @property
    def recipe(self) -> Recipe:
        assert self.outcome.recipe is not None
        return self.outcome.recipe

    def plain(self) -> Any:
        """The pipeline as its users load it."""
        pipe = diffusers.DiffusionPipeline.from_pretrained(self.folder, dtype=torch.bfloat16)
        pipe.set_progress_bar_config(disable=True)
        return pipe


def derived(folder: Path, settings: dict[str, Any]) -> StudySpec:
    """What `--model FOLDER` means, at a small size and two steps, priced as if each dimension were 64 times as large."""
    spec = derive_study(with_prompts(with_net(resolve_spec(str(folder)), "tiny"), PROMPTS))
    pricing = spec.pricing.model_copy(update={"stands_for": 64})
    return spec.model_copy(update={"settings": spec.settings | settings | {"num_inference_steps": 2}, "pricing": pricing})


@pytest.fixture(scope="module", params=[*ASKED, *OTHERS])
def searched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Searched]:
    root = tmp_path_factory.mktemp(request.param)
    spec = derived(root / "pipeline", save_whole(request.param, root / "pipeline"))
    drawn: dict[tuple[str, str], Media] = {}
    real = Evaluator.draw

    def draw(self: Evaluator, formats: Any, split: Any, **rest: Any) -> Media:
        media = real(self, formats, split, **rest)
        drawn[split, json.dumps(dict(formats))] = media
        return media

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Evaluator, "draw", draw)
        asked = SearchRequest(formats=FORMATS, budget=3, max_lpips=100.0, storage=root / "study.db", cache_folder=root / "cache")
        outcome = find_recipe(spec, asked)
    yield Searched(request.param, root / "pipeline", spec, outcome, root / "cache", drawn)


def draw_plain(pipe, spec, split):
    texts, first = (PROMPTS.search, PROMPTS.seed) if split == "search" else (PROMPTS.held_out, PROMPTS.held_out_seed)
    size = spec.search.batch_size
    outs = []
    for s in range(0, len(texts), size):
        t = list(texts[s : s + size])
        g = [torch.Generator().manual_seed(first + i) for i in range(s, s + len(t))]
        neg = {"negative_prompt": [spec.settings["negative_prompt"]] * len(t)} if "negative_prompt" in spec.settings else {}
        with torch.no_grad():
            o = pipe(**{**spec.settings, "prompt": t, **neg}, generator=g, output_type="pt")
        if hasattr(o, "images"):
            outs.append(Media(pictures=o.images.float() * 2 - 1))
        else:
            outs.append(Media.of_clips(o.frames))
    return Media.joined(outs)


def test_x(searched):
    s = searched
    r = s.recipe
    pipe = s.plain()
    m0 = draw_plain(pipe, s.spec, "held_out")
    refs = [load_file(f)["pictures"] for f in s.cache.glob("*.safetensors")]
    d0 = min(float((x.float() - m0.pictures.float()).abs().max()) for x in refs if x.shape == m0.pictures.shape)
    r.apply(pipe, emulate=True)
    m1 = draw_plain(pipe, s.spec, "held_out")
    k = s.drawn["held_out", json.dumps({k: v for k, v in r.layers.items()})]
    d1 = float((k.pictures.float() - m1.pictures.float()).abs().max())
    q = len(r.layers) - len(r.skip)
    print(
        f"\n{s.name} batch {s.spec.search.batch_size} quant {q}/{len(r.layers)} ref diff {d0:.3g} quant diff {d1:.3g} lpips {r.fidelity.lpips.mean:.4g} trials {[round(t.score.mean, 4) for t in s.outcome.result.trials]} floor {r.fidelity.lpips.noise_floor} speedup {r.latency.speedup:.3f}"
    )
