"""Which recipes can be shipped before anything was measured?

    python recipes/make_examples.py recipes            # writes the examples and README.md

    made = beat_published(resolve_spec("ltx2"))        # None if the list cannot be beaten
    made.recipe.save("recipes/ltx2-nvfp4-b200-unverified.json")

An example is a recipe that quantizes fewer sensitive Linears than a published list, in the same
predicted time or less.

Method. It starts from the Linears that the study's first published list quantizes. Families (fused
q, k and v together) that are predicted to be slower quantized go back to bf16, and so do sensitive
roles that save less than `WORTH` of the run. Families that would gain are added if none of their
Linears is sensitive. So every sensitive Linear that is quantized is one that the published list
quantizes too.

Sensitive here means what people protect by hand, by name: all outside of the blocks (embeddings,
first and last projections), norms and modulation, and what reads or writes the text (`SENSITIVE`).
Nothing is measured, so every example is unverified. Its field `against` says which list it was
compared with.
"""

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sensitivity.core.format_name import FormatName, quantized
from sensitivity.core.fqns import block_of, role_of
from sensitivity.core.json_files import write_whole
from sensitivity.core.patterns import match
from sensitivity.core.words import printable
from sensitivity.formats.registry import get_format
from sensitivity.latency.pricer import PricedList, Pricer
from sensitivity.recipes.recipe import Recipe, load_recipe
from sensitivity.recipes.unverified import priced_recipe
from sensitivity.shapes.by_hand import published_list
from sensitivity.shapes.families import fused_families
from sensitivity.shapes.run import ShapeRun, run_shapes
from sensitivity.spec.hand_lists import PublishedList, Reasoned
from sensitivity.spec.loading import resolve_spec
from sensitivity.spec.study_spec import StudySpec

EXAMPLES = ("flux1-dev", "qwen-image", "ltx2")
"""Studies whose published list may be beaten."""

CHECKED = 0.014
"""Largest relative error of predicted speedups of FLUX.1-dev against published ones, which the
constants in `latency/constants.py` are fitted to.
"""

WORTH = 0.005
"""The part of a quantized run that a sensitive role must save to be quantized. It is less than
`CHECKED`: whether such a role gains at all is not known.
"""

SENSITIVE = (
    Reasoned(pattern="*norm*", reason="norms and modulation"),
    Reasoned(pattern="*adaln*", reason="modulation"),
    Reasoned(pattern="*_mod.*", reason="modulation"),
    Reasoned(pattern="*.add_?_proj", reason="projections of the text"),
    Reasoned(pattern="*.to_add_out", reason="projections of the text"),
    Reasoned(pattern="*context*", reason="the text's stream"),
    Reasoned(pattern="*txt_*", reason="the text's stream"),
    Reasoned(pattern="*attn2.to_[kv]", reason="attention to the text: it reads the text"),
)
"""Globs on roles inside blocks. All Linears outside of blocks are sensitive as well."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """An example recipe and the published list that it beats, both priced on the same run."""

    recipe: Recipe
    ours: PricedList
    published: PricedList


def is_sensitive(fqn: str) -> bool:
    """Whether people keep a Linear of this name in bf16 by hand."""
    return not block_of(fqn) or any(match(entry.pattern, (role_of(fqn),)) for entry in SENSITIVE)


def sensitive_roles(formats: Mapping[str, FormatName]) -> frozenset[str]:
    """The sensitive roles of which at least one Linear is quantized."""
    return frozenset(role_of(fqn) for fqn in quantized(formats) if is_sensitive(fqn))


def beat_published(
    spec: StudySpec,
    *,
    format: FormatName = FormatName.NVFP4,
    target: str | None = None,
    run: ShapeRun | None = None,
) -> Example | None:
    """The example of a study that states a published list; `run` is its run, made here if None.

    None if every family that the list quantizes gains, every sensitive role enough, and no family
    without sensitive Linears can be added.

    Raises:
        PipelineError, MeasurementError: see `run_shapes`.
        IndexError: the study states no published list.
    """
    listed, run = spec.published[0], run or run_shapes(spec)
    pricer = Pricer.of(spec, run, target=target)
    takes = [
        x.fqn
        for x in run.table.linears
        if get_format(format).refusal(k=x.k, n=x.n, dtype=getattr(torch, x.dtype)) is None
    ]
    theirs = published_list(pricer.table, listed) & set(takes)
    gains = {
        cost.fqn: cost.calls * (cost.bf16_us - cost.quantized_us)
        for cost in pricer.price("all", dict.fromkeys(takes, format)).estimate.linears
    }
    published = pricer.price(listed.name, dict.fromkeys(theirs, format))
    families = fused_families(run.table.linears, spec.search.fused)
    worth = _worth(theirs, gains, WORTH * published.estimate.quantized_s * 1e6)
    chosen = [
        fqn for family in families for fqn in _kept([x.fqn for x in family], theirs & worth, gains)
    ]
    chosen = [fqn for fqn in chosen if fqn in worth or fqn not in theirs]
    if set(chosen) == theirs:
        return None
    ours = pricer.price(f"{spec.name}-{format}", dict.fromkeys(chosen, format))
    recipe = priced_recipe(
        ours,
        run,
        spec,
        name=f"{spec.name}-{format}-{ours.estimate.target}-unverified",
        notice=_notice(ours, published, len(theirs)),
    )
    stated = recipe.model_dump(mode="json") | {
        "sensitive_roles": sorted(sensitive_roles(ours.formats)),
        "against": _against(listed, published, len(theirs)),
    }
    return Example(recipe=Recipe.from_mapping(stated), ours=ours, published=published)


def _worth(theirs: set[str], gains: Mapping[str, float], least_us: float) -> set[str]:
    """The Linears of a list without the sensitive roles that save less than `least_us` together."""
    saved: Counter[str] = Counter()
    for fqn in theirs:
        saved[role_of(fqn)] += gains[fqn]
    return {fqn for fqn in theirs if not is_sensitive(fqn) or saved[role_of(fqn)] >= least_us}


def _kept(family: list[str], theirs: set[str], gains: Mapping[str, float]) -> list[str]:
    """The Linears of a family that the example quantizes.

    Those that the list quantizes, if together they gain. If the list quantizes none of them: all,
    if they gain and none is sensitive.
    """
    own = [fqn for fqn in family if fqn in theirs]
    chosen = own or family
    gain = sum(gains[fqn] for fqn in chosen)
    is_free = bool(own) or not any(map(is_sensitive, family))
    return chosen if gain > 0 and is_free else []


def _against(listed: PublishedList, published: PricedList, count: int) -> dict[str, Any]:
    """What the example's file says of the published list."""
    return {
        "list": listed.name,
        "source": listed.source,
        "quantized_linears": count,
        "quantized_s": published.estimate.quantized_s,
        "speedup": published.estimate.speedup,
        "sensitive_roles": sorted(sensitive_roles(published.formats)),
    }


def _notice(ours: PricedList, published: PricedList, count: int) -> str:
    ours_s, theirs_s = ours.estimate.quantized_s, published.estimate.quantized_s
    saved = 1 - ours_s / theirs_s
    smaller = ", a difference smaller than those that the prediction was checked with"
    difference = f"{abs(saved):.2%} {'less' if saved >= 0 else 'more'}"
    return (
        "seconds are predicted from shapes alone; no picture was drawn, so nothing is known of its"
        f" quality. It is {published.name} ({count} Linears) without those that are predicted to be"
        f" slower quantized, and without sensitive roles that save less than {WORTH:.1%} of a run"
        f" ({ours.quantized} left): {ours_s:.4f} s a run against {theirs_s:.4f} s"
        f" ({difference}{smaller if abs(saved) < CHECKED else ''}),"
        f" {len(sensitive_roles(ours.formats))} sensitive roles quantized against"
        f" {len(sensitive_roles(published.formats))}"
    )


def index(folder: Path) -> str:
    """The `README.md` of a folder of recipes, with a row for each JSON file in it, at any depth.

    Raises:
        RecipeError: a file is no recipe.
    """
    found = {
        path.relative_to(folder).as_posix(): load_recipe(path)
        for path in sorted(folder.rglob("*.json"))
    }
    lines = [
        "# Recipes",
        "",
        (
            "Each file is what `sensitivity export FILE --to NAME` reads; `sensitivity diff A B`"
            " says what two of them differ in."
        ),
        (
            "UNVERIFIED: formats and predicted seconds only, no picture was drawn; apply one to"
            " your model and look before you serve it"
        ),
        "(`sensitivity verify FILE --model MODEL` draws and compares).",
        "",
        (
            "Written by `python recipes/make_examples.py recipes`; a test holds it to the files."
            " `published/` has lists as others published them, for `sensitivity audit`."
        ),
        "",
        (
            "| file | model | formats | quantized | s a run | speedup | GPU | LPIPS | against the"
            " published list |"
        ),
        "|---|---|---|---|---|---|---|---|---|",
        *(_row(name, recipe) for name, recipe in found.items()),
    ]
    return "\n".join(lines) + "\n"


def _row(file: str, recipe: Recipe) -> str:
    """The row of one recipe; a | in a cell is escaped."""
    latency = recipe.latency
    lpips = "UNVERIFIED"
    if recipe.fidelity is not None:
        lpips = f"{recipe.fidelity.lpips.mean:.4f} ({recipe.fidelity.lpips.net})"
    cells = (
        f"[{file}]({file})",
        recipe.model.id,
        ", ".join(dict.fromkeys(quantized(recipe.layers).values())),
        f"{len(recipe.layers) - len(recipe.skip)}/{len(recipe.layers)}",
        f"{latency.bf16_s:.4f} -> {latency.quantized_s:.4f} {latency.source}",
        f"{latency.speedup:.3f}x",
        f"{latency.target}, batch {latency.batch_size}",
        lpips,
        _comparison(recipe.model_extra or {}),
    )
    return "| " + " | ".join(printable(cell).replace("|", "\\|") for cell in cells) + " |"


def _comparison(extra: Mapping[str, Any]) -> str:
    """The published list that an example was compared with, in words; "" for other recipes."""
    against = extra.get("against")
    if not isinstance(against, dict):
        return ""
    ours, theirs = (len(data.get("sensitive_roles", ())) for data in (extra, against))
    return (
        f"{against['list']}: {against['quantized_linears']} Linears, {against['quantized_s']:.4f}"
        f" s, {against['speedup']:.3f}x; {ours} sensitive roles quantized against its {theirs}"
    )


def write_examples(folder: Path) -> None:
    """Write the examples of all studies that have one, and the index."""
    for name in EXAMPLES:
        made = beat_published(resolve_spec(name))
        if made is None:
            print(
                f"{name}: none; every family that its published list quantizes gains, and no other"
                " family that gains is free of sensitive Linears"
            )
            continue
        print(made.recipe.save(folder / f"{made.recipe.name}.json"), made.recipe.caveat)
    write_whole(folder / "README.md", index(folder).encode())


if __name__ == "__main__":
    write_examples(Path(sys.argv[1] if len(sys.argv) > 1 else "recipes"))
