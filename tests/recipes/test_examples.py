"""The shipped recipes: each claim of an example holds when it is priced again, and the index says
what the files say.
"""

import re
from pathlib import Path

import pytest
import torch

from sensitivity.consumers.exporters import EXPORTERS
from sensitivity.core.format_name import FormatName
from sensitivity.core.fqns import block_of, role_of
from sensitivity.core.patterns import match
from sensitivity.formats.registry import get_format
from sensitivity.latency.pricer import Pricer
from sensitivity.recipes.recipe import Recipe, load_recipe
from sensitivity.shapes.by_hand import published_list
from sensitivity.shapes.families import fused_role
from sensitivity.spec.loading import resolve_spec

from make_examples import (
    CHECKED,
    EXAMPLES,
    SENSITIVE,
    beat_published,
    index,
    is_sensitive,
    sensitive_roles,
)
from support.shape_runs import shape_run

FOLDER = Path(__file__).parents[2] / "recipes"
SHIPPED = {
    path.stem.removesuffix("-nvfp4-b200-unverified"): path
    for path in FOLDER.glob("*-unverified.json")
}


def test_what_ships() -> None:
    """FLUX.1-dev and LTX-2 have an example; QwenImage's published list quantizes nothing that
    loses, and skips nothing but what is sensitive or loses.
    """
    assert set(SHIPPED) == {"flux1-dev", "ltx2"} < set(EXAMPLES)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_claims_of_an_example_hold(name: str) -> None:
    """Priced again, it is not slower than the published list by more than prices are known to;
    sensitive roles and Linears that it quantizes are some of that list's; its file says these
    numbers.
    """
    recipe, spec, run = load_recipe(SHIPPED[name]), resolve_spec(name), shape_run(name)
    pricer, theirs = Pricer.of(spec, run), published_list(run.table, spec.published[0])
    ours_s = pricer.price("ours", recipe.layers).estimate.quantized_s
    published = pricer.price("theirs", dict.fromkeys(theirs, FormatName.NVFP4))
    assert ours_s < published.estimate.quantized_s * (1 + CHECKED)
    quantized = {fqn for fqn, fmt in recipe.layers.items() if fmt is not FormatName.BF16}
    assert quantized < theirs
    assert {fqn for fqn in quantized if is_sensitive(fqn)} < {
        fqn for fqn in theirs if is_sensitive(fqn)
    }
    ours, others = sensitive_roles(recipe.layers), sensitive_roles(published.formats)
    assert ours < others
    said = recipe.model_extra or {}
    assert (said["sensitive_roles"], said["against"]["sensitive_roles"]) == (
        sorted(ours),
        sorted(others),
    )
    assert said["against"]["quantized_linears"] == len(theirs)
    assert recipe.latency.quantized_s == pytest.approx(ours_s, rel=1e-6)
    assert said["against"]["quantized_s"] == pytest.approx(published.estimate.quantized_s, rel=1e-6)


@pytest.mark.parametrize("name", SHIPPED)
def test_an_example_is_labelled(name: str) -> None:
    """Unverified in its name and in its notice, which has both times."""
    recipe = load_recipe(SHIPPED[name])
    assert recipe.is_unverified
    assert recipe.name == SHIPPED[name].stem
    assert f"{recipe.latency.quantized_s:.4f} s a run against" in recipe.caveat
    assert "no picture was drawn" in recipe.caveat


@pytest.mark.parametrize("name", SHIPPED)
def test_an_example_keeps_what_servers_fuse_together(name: str) -> None:
    """q, k and v of a self attention have one format, and so have k and v of a cross attention;
    every consumer that has the format and the names takes it.
    """
    recipe, spec = load_recipe(SHIPPED[name]), resolve_spec(name)
    families: dict[tuple[str, str], set[FormatName]] = {}
    for fqn, fmt in recipe.layers.items():
        role = role_of(fqn)
        crossing = role.endswith("attn2.to_q") or re.search(r"_to_\w+_attn\.to_q$", role)
        families.setdefault(
            (block_of(fqn), role if crossing else fused_role(role, spec.search.fused)), set()
        ).add(fmt)
    assert {len(formats) for formats in families.values()} == {1}
    for consumer in ("torchao", "diffusers", "modelopt", "compressed-tensors", "comfyui"):
        for form in EXPORTERS[consumer].forms:
            assert EXPORTERS[consumer](form=form).verify(recipe, recipe.layers) == recipe.layers


def test_qwen_image_has_none() -> None:
    """Each Linear of the published list gains, and what is outside of it loses or is sensitive:
    there is nothing to drop and nothing to add.
    """
    spec, run = resolve_spec("qwen-image"), shape_run("qwen-image")
    theirs = published_list(run.table, spec.published[0])
    takes = [
        x.fqn
        for x in run.table.linears
        if get_format("nvfp4").refusal(k=x.k, n=x.n, dtype=torch.bfloat16) is None
    ]
    costs = (
        Pricer.of(spec, run).price("all", dict.fromkeys(takes, FormatName.NVFP4)).estimate.linears
    )
    gaining = {cost.fqn for cost in costs if cost.quantized_us < cost.bf16_us}
    assert theirs <= gaining
    assert all(map(is_sensitive, gaining - theirs))
    assert beat_published(spec, run=run) is None


def test_what_is_sensitive() -> None:
    """What is outside of blocks, norms and modulation, and what reads or writes the text; not the
    main projections that are called alike.
    """
    named = {
        True: [
            "proj_out",
            "x_embedder",
            "time_embed.linear",
            "transformer_blocks.3.norm1_context.linear",
            "single_transformer_blocks.0.norm.linear",
            "transformer_blocks.1.img_mod.1",
            "transformer_blocks.1.attn.add_q_proj",
            "transformer_blocks.1.attn.to_add_out",
            "blocks.2.attn2.to_k",
            "transformer_blocks.1.ff_context.net.2",
            "transformer_blocks.1.txt_mlp.net.2",
            "transformer_blocks.1.audio_attn2.to_v",
        ],
        False: [
            "single_transformer_blocks.0.proj_out",
            "transformer_blocks.1.attn.to_q",
            "transformer_blocks.1.img_mlp.net.2",
            "blocks.2.attn2.to_q",
        ],
    }
    assert {
        wanted: [fqn for fqn in fqns if is_sensitive(fqn) is wanted]
        for wanted, fqns in named.items()
    } == named
    roles = {
        role_of(fqn) for name in EXAMPLES for fqn in (x.fqn for x in shape_run(name).table.linears)
    }
    dead = {entry.pattern for entry in SENSITIVE if not match(entry.pattern, roles)}
    assert dead == {"*adaln*"}, "a name that other models have"


def test_the_index_is_that_of_the_files() -> None:
    """`recipes/README.md` is what the command writes."""
    assert (FOLDER / "README.md").read_text() == index(FOLDER), (
        "run python recipes/make_examples.py recipes"
    )


def test_the_index_shows_measured_recipes_too(tmp_path: Path) -> None:
    """LPIPS where pictures were compared, and nothing that could break the table."""
    data = load_recipe(next(iter(SHIPPED.values()))).model_dump(mode="json")
    lpips = {
        "mean": 0.25,
        "ci95": [0.2, 0.3],
        "net": "alex",
        "noise_floor": None,
        "prompts": ["a"],
        "seeds": [1],
        "per_prompt": [0.25],
    }
    del data["against"], data["sensitive_roles"]
    data |= {
        "fidelity": {"lpips": lpips},
        "notice": None,
        "model": data["model"] | {"id": "a|b\nc"},
    }
    (tmp_path / "mine").mkdir()
    Recipe.from_mapping(data).save(tmp_path / "mine" / "r.json")
    row = index(tmp_path).splitlines()[-1]
    assert "| [mine/r.json](mine/r.json) | a\\|b c |" in row
    assert "| 0.2500 (alex) |" in row
