"""How do two recipes of one model compare: in formats, in seconds and in LPIPS?

    diff = compare_recipes(first, second, pricer=pricer)
    diff.changes[0].role, diff.changes[0].saved_s       # "transformer_blocks.ff.net.2", 0.012
    diff.incomparable                                   # why the LPIPS cannot be compared

Method. Linears of one role that have the same two formats are one change. A pricer prices both
recipes for A's GPU and batch, whatever seconds their files have; without one only the formats are
compared. The two LPIPS can be compared if net, weights, prompts, seeds and settings are the same;
then they are compared prompt by prompt (`fidelity.typical`).

What this module does not do: say which recipe is better. `recipes.differences` has the records.
"""

import math
from collections.abc import Iterable
from typing import Any

from sensitivity.core.format_name import FormatName
from sensitivity.core.fqns import block_of, indices_of, role_of
from sensitivity.core.kernels import Kernels, in_words
from sensitivity.core.words import format_indices
from sensitivity.errors import RecipeMismatchError
from sensitivity.fidelity.typical import ratio
from sensitivity.latency.pricer import Pricer
from sensitivity.recipes.differences import Change, PricedPair, RecipeDiff, Side
from sensitivity.recipes.recipe import Recipe

CLOSE = 1e-9
"""Relative difference below which two times are the same."""


def compare_recipes(
    a: Recipe, b: Recipe, *, pricer: Pricer | None = None, unpriced: str = ""
) -> RecipeDiff:
    """Compare two recipes of one model.

    Args:
        a: the first recipe.
        b: the second recipe.
        pricer: prices both, for the GPU and batch of `a`; None compares formats and LPIPS only.
        unpriced: why there is no pricer.

    Raises:
        RecipeMismatchError: they are for other components, classes or Linears.
    """
    check_alike(a, b)
    priced, saved_s = None, None
    if pricer is not None:
        priced, saved_s = _price_both(a, b, pricer)
    incomparable = tuple(_incomparable(a, b))
    return RecipeDiff(
        a=Side(recipe=a, place=_place(a)),
        b=Side(recipe=b, place=_place(b)),
        changes=_changes(a, b, saved_s),
        priced=priced,
        unpriced=unpriced if pricer is None else "",
        incomparable=incomparable,
        lpips_ratio=None if incomparable else _ratio(a, b),
        notes=tuple(_notes(a, b)),
    )


def check_alike(a: Recipe, b: Recipe) -> None:
    """Raise RecipeMismatchError unless both are for the same components, classes and Linears."""
    if a.model.classes != b.model.classes:
        found = " and ".join(
            ", ".join(f"{name} ({kind})" for name, kind in recipe.model.classes.items())
            for recipe in (a, b)
        )
        raise RecipeMismatchError(
            f"found recipes of other models: {found}; expected two of one model: name another"
        )
    odd = sorted(set(a.layers) ^ set(b.layers))
    if odd:
        raise RecipeMismatchError(
            f"found recipes of other models: {a.model.id!r} and {b.model.id!r} differ in {len(odd)}"
            f" Linears, the first is {odd[0]}; expected two of one model: name another"
        )


def _price_both(a: Recipe, b: Recipe, pricer: Pricer) -> tuple[PricedPair, dict[str, float]]:
    """Seconds of both recipes, and {FQN: seconds of a run that B saves}."""
    of_a, of_b = (pricer.price(recipe.name, recipe.assignment).estimate for recipe in (a, b))
    saved_s = {
        x.fqn: x.calls * (x.quantized_us - y.quantized_us) / 1e6
        for x, y in zip(of_a.linears, of_b.linears, strict=True)
    }
    pair = PricedPair(
        bf16_s=of_a.bf16_s,
        a_s=of_a.quantized_s,
        b_s=of_b.quantized_s,
        source=of_a.source,
        target=of_a.target,
        batch_size=of_a.batch_size,
    )
    return pair, saved_s


def _changes(a: Recipe, b: Recipe, saved_s: dict[str, float] | None) -> tuple[Change, ...]:
    """Linears whose formats differ, by role and formats, the most seconds first."""
    groups: dict[tuple[str, FormatName, FormatName], list[str]] = {}
    for fqn, old in a.layers.items():
        if b.layers[fqn] is not old:
            groups.setdefault((role_of(fqn), old, b.layers[fqn]), []).append(fqn)
    changes = [
        Change(
            role=role,
            blocks=blocks_in_words(fqns),
            fqns=tuple(fqns),
            a=old,
            b=new,
            saved_s=None if saved_s is None else sum(saved_s.get(fqn, 0.0) for fqn in fqns),
        )
        for (role, old, new), fqns in groups.items()
    ]
    return tuple(sorted(changes, key=lambda change: -abs(change.saved_s or 0.0)))


def blocks_in_words(fqns: Iterable[str]) -> str:
    """The blocks of Linears of one role: "0-5, 11".

    "1.0, 1.1" if blocks are inside of blocks, and "" if the Linears are in no block.
    """
    indices = sorted({indices_of(block) for fqn in fqns if (block := block_of(fqn))})
    if all(len(index) == 1 for index in indices):
        return format_indices(index[0] for index in indices)
    return ", ".join(".".join(map(str, index)) for index in indices)


def _incomparable(a: Recipe, b: Recipe) -> Iterable[str]:
    """Reasons that the two LPIPS cannot be compared."""
    if a.fidelity is None or b.fidelity is None:
        unverified = [letter for letter, recipe in (("A", a), ("B", b)) if recipe.is_unverified]
        yield f"{' and '.join(unverified)} {'is' if len(unverified) == 1 else 'are'} unverified"
        return
    of_a, of_b = a.fidelity.lpips, b.fidelity.lpips
    if of_a.net != of_b.net:
        yield f"nets {of_a.net} and {of_b.net}"
    if (_source(a), a.model.weights) != (_source(b), b.model.weights):
        yield f"weights {_weights(a)} and {_weights(b)}"
    if of_a.prompts != of_b.prompts:
        yield f"other prompts ({len(of_a.prompts)} and {len(of_b.prompts)})"
    elif of_a.seeds != of_b.seeds:
        yield "other seeds"
    if a.fidelity.kernels != b.fidelity.kernels:
        yield " and ".join(in_words(Kernels(of.fidelity.kernels)) for of in (a, b) if of.fidelity)
    if _pictures(a) != _pictures(b):
        yield "other settings of the pictures (size, steps, guidance, batch or arithmetic)"


def _source(recipe: Recipe) -> tuple[str, str | None]:
    return recipe.model.id, recipe.model.revision


def _weights(recipe: Recipe) -> str:
    """The recipe's weights, in words."""
    revision = (recipe.model.revision or "of no stated revision")[:24]
    return f"{recipe.model.id} {revision} ({recipe.model.weights})"


def _pictures(recipe: Recipe) -> Any:
    """The settings that the recipe's pictures were generated with, whatever the kernels; None if it
    has none.
    """
    pictures = ((recipe.fidelity and recipe.fidelity.model_extra) or {}).get("pictures")
    if not isinstance(pictures, dict):
        return pictures
    arithmetic = str(pictures.get("arithmetic", "")).removeprefix("native").removeprefix("emulated")
    return pictures | {"arithmetic": arithmetic, "kernels": None, "emulated_shapes": None}


def _ratio(a: Recipe, b: Recipe) -> tuple[float, float, float] | None:
    """(ratio, low, high) of B's typical LPIPS over A's, prompt by prompt, with the interval of
    `fidelity.typical`; None where it is not finite.
    """
    if a.fidelity is None or b.fidelity is None or not a.fidelity.lpips.per_prompt:
        return None
    of_a, of_b = a.fidelity.lpips, b.fidelity.lpips
    found = ratio(of_b.per_prompt, of_a.per_prompt, of_a.noise_floor)
    return (found.value, found.low, found.high) if math.isfinite(found.value) else None


def _place(recipe: Recipe) -> tuple[int, int] | None:
    """The recipe's rank by seconds among the members of its front, and how many those are.

    The recipe is a member of the front itself, so its own seconds do not count as faster.
    """
    if not recipe.front:
        return None
    own_s = recipe.latency.ranked_s
    faster = sum(member.latency.quantized_s < own_s * (1 - CLOSE) for member in recipe.front)
    return 1 + faster, len(recipe.front)


def _notes(a: Recipe, b: Recipe) -> Iterable[str]:
    """Other differences that a reader should know."""
    if _source(a) != _source(b):
        yield (
            f"A is for {_weights(a)}, B for {_weights(b)}: the Linears are alike, the weights may"
            " not be"
        )
    if (a.latency.target, a.latency.batch_size) != (b.latency.target, b.latency.batch_size):
        yield (
            f"A was made for {a.latency.target} at batch {a.latency.batch_size}, B for"
            f" {b.latency.target} at batch {b.latency.batch_size}; where both are priced here, they"
            " are priced for A's"
        )
    if a.front and b.front and a.search.study != b.search.study:
        yield "their fronts are of two searches"
