"""Which recipes come with the package before anything was measured?

Examples that beat a published list on predicted latency, and the index of `recipes/`.

    made = beat_published(resolve_spec("ltx2"))        # None where it cannot be beaten so
    made.recipe.save("recipes/ltx2-nvfp4-b200-unverified.json")
    python -m sensitivity.examples recipes             # writes all of them, and README.md

Method. From the Linears that a study's first published list quantizes, those families (fused q, k
and v together) are left in bf16 that are slower quantized, as priced from shapes; families that
gain are added where no Linear of them is sensitive. So the sensitive Linears that are quantized are
some of the list's own.

Sensitive here is what people protect by hand, by name: what is outside the blocks (embeddings,
first and last projections), norms and modulation, and what reads or writes the text (`SENSITIVE`).
Nothing is measured, so every example is unverified, and its `against` says what it was compared
with.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from sensitivity.core.format_name import FormatName
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
from sensitivity.shapes.run import run_shapes
from sensitivity.spec.hand_lists import Reasoned
from sensitivity.spec.loading import resolve_spec
from sensitivity.spec.study_spec import StudySpec

EXAMPLES = ("flux1-dev", "qwen-image", "ltx2")
"""Studies that are tried."""

CHECKED = 0.014
"""How far predicted speedups of FLUX.1-dev are from published ones (`latency/constants.py` is
fitted to them).
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
"""Globs on roles inside blocks; what is outside of blocks is sensitive as well."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """An example recipe, the published list that it beats, both priced on the same run."""

    recipe: Recipe
    ours: PricedList
    published: PricedList


def is_sensitive(fqn: str) -> bool:
    """Whether people protect a Linear of this name by hand."""
    return not block_of(fqn) or any(match(entry.pattern, (role_of(fqn),)) for entry in SENSITIVE)


def sensitive_roles(formats: Mapping[str, FormatName]) -> frozenset[str]:
    """The sensitive roles of which a Linear is quantized."""
    return frozenset(
        role_of(fqn)
        for fqn, name in formats.items()
        if name is not FormatName.BF16 and is_sensitive(fqn)
    )


def beat_published(
    spec: StudySpec, *, format: FormatName = FormatName.NVFP4, target: str | None = None
) -> Example | None:
    """The example of a study; None where no Linear of its first published list loses and nothing
    that is not sensitive can be added.

    Raises:
        PipelineError, MeasurementError: see `run_shapes`.
        IndexError: the study states no published list.
    """
    listed, run = spec.published[0], run_shapes(spec)
    pricer = Pricer.of(spec, run, target=target)
    takes = [
        x.fqn
        for x in run.table.linears
        if get_format(format).refusal(k=x.k, n=x.n, dtype=_dtype(x.dtype)) is None
    ]
    theirs = published_list(pricer.table, listed) & set(takes)
    gains = {
        cost.fqn: cost.calls * (cost.bf16_us - cost.quantized_us)
        for cost in pricer.price("all", dict.fromkeys(takes, format)).estimate.linears
    }
    families = fused_families(run.table.linears, spec.search.fused)
    chosen = [fqn for family in families for fqn in _kept([x.fqn for x in family], theirs, gains)]
    if set(chosen) == theirs:
        return None
    ours, published = (
        pricer.price(name, dict.fromkeys(fqns, format))
        for name, fqns in ((f"{spec.name}-{format}", chosen), (listed.name, theirs))
    )
    recipe = priced_recipe(
        ours,
        run,
        spec,
        name=f"{spec.name}-{format}-{ours.estimate.target}-unverified",
        notice=_notice(ours, published, len(theirs), listed.name),
    )
    against = {
        "list": listed.name,
        "source": listed.source,
        "quantized_linears": len(theirs),
        "quantized_s": published.estimate.quantized_s,
        "speedup": published.estimate.speedup,
        "sensitive_roles": sorted(sensitive_roles(published.formats)),
    }
    stated = recipe.model_dump(mode="json") | {
        "sensitive_roles": sorted(sensitive_roles(ours.formats)),
        "against": against,
    }
    return Example(recipe=Recipe.from_mapping(stated), ours=ours, published=published)


def _dtype(name: str) -> torch.dtype:
    return getattr(torch, name)  # type: ignore[no-any-return]


def _kept(family: list[str], theirs: set[str], gains: Mapping[str, float]) -> list[str]:
    """Which Linears of a family are quantized: the list's own if together they gain; all of it if
    they gain, it has none of them, and none is sensitive.
    """
    own = [fqn for fqn in family if fqn in theirs]
    if own:
        return own if sum(gains[fqn] for fqn in own) > 0 else []
    return (
        family
        if sum(gains[fqn] for fqn in family) > 0 and not any(map(is_sensitive, family))
        else []
    )


def _notice(ours: PricedList, published: PricedList, count: int, name: str) -> str:
    ours_s, theirs_s = ours.estimate.quantized_s, published.estimate.quantized_s
    saved = 1 - ours_s / theirs_s
    small = (
        ", a difference smaller than those that the prediction was checked with"
        if saved < CHECKED
        else ""
    )
    return (
        "seconds are predicted from shapes alone; no picture was drawn, so nothing is known of its"
        f" quality. It is {name} ({count} Linears) without those that are predicted to be slower"
        f" quantized ({ours.quantized} left): {ours_s:.4f} s a run against {theirs_s:.4f} s"
        f" ({saved:.2%} less{small}), {len(sensitive_roles(ours.formats))} sensitive roles"
        f" quantized against {len(sensitive_roles(published.formats))}"
    )


def index(folder: Path) -> str:
    """`README.md` of a folder of recipes: a line for each JSON file in it, at any depth.

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
            "Written by `python -m sensitivity.examples recipes`; a test holds it to the files."
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
    used = dict.fromkeys(name for name in recipe.layers.values() if name is not FormatName.BF16)
    latency, against = recipe.latency, (recipe.model_extra or {}).get("against")
    lpips = (
        "UNVERIFIED"
        if recipe.fidelity is None
        else f"{recipe.fidelity.lpips.mean:.4f} ({recipe.fidelity.lpips.net})"
    )
    said = ""
    if isinstance(against, dict):
        ours, theirs = (
            data.get("sensitive_roles", ()) for data in (recipe.model_extra or {}, against)
        )
        said = (
            f"{against['list']}: {against['quantized_linears']} Linears,"
            f" {against['quantized_s']:.4f} s, {against['speedup']:.3f}x; {len(ours)} sensitive"
            f" roles quantized against its {len(theirs)}"
        )
    cells = (
        f"[{file}]({file})",
        recipe.model.id,
        ", ".join(used),
        f"{len(recipe.layers) - len(recipe.skip)}/{len(recipe.layers)}",
        f"{latency.bf16_s:.4f} -> {latency.quantized_s:.4f} {latency.source}",
        f"{latency.speedup:.3f}x",
        f"{latency.target}, batch {latency.batch_size}",
        lpips,
        said,
    )
    return "| " + " | ".join(printable(cell).replace("|", "\\|") for cell in cells) + " |"


def write_examples(folder: Path) -> None:
    """Write every example that there is, and the index."""
    for name in EXAMPLES:
        made = beat_published(resolve_spec(name))
        if made is None:
            print(
                f"{name}: none; no Linear of its published list loses, and none that gains is free"
                " of sensitive ones"
            )
            continue
        print(made.recipe.save(folder / f"{made.recipe.name}.json"), made.recipe.caveat)
    write_whole(folder / "README.md", index(folder).encode())


if __name__ == "__main__":
    write_examples(Path(sys.argv[1] if len(sys.argv) > 1 else "recipes"))
