"""What do two recipes of one model differ in, and what does that cost and gain? `compare_recipes`.

    diff = compare_recipes(load_recipe("a.json"), load_recipe("b.json"), pricer=pricer_for(a, study_of(a)))
    diff.changes[0].role, diff.changes[0].blocks, diff.changes[0].saved_s      # "transformer_blocks.ff.net.2", "0-5, 11", 0.012
    diff.incomparable                                                          # why the two LPIPS do not compare; () if they do

Conventions. A is the first recipe, B the second. `saved_s` is A's seconds minus B's: positive where
B is faster. Both are priced alike, for A's GPU and batch, whatever their files say; without a
pricer only the formats are compared. Groups are Linears of one role with the same two formats.

Two LPIPS compare when net, weights, prompts, seeds and settings are the same; then they are
compared prompt by prompt. What it does not do: choose between them.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sensitivity.core.format_name import FormatName
from sensitivity.core.fqns import block_of, indices_of, role_of
from sensitivity.core.patterns import format_indices
from sensitivity.errors import RecipeMismatchError
from sensitivity.fidelity.score import bootstrap_interval
from sensitivity.latency.pricer import Pricer
from sensitivity.recipes.recipe import Recipe

CLOSE = 1e-9
"""Relative difference of two times that are one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """Linears of one role that have the format `a` in A and `b` in B.

    `blocks` are their blocks in words; `saved_s` is None where nothing was priced.
    """

    role: str
    blocks: str
    fqns: tuple[str, ...]
    a: FormatName
    b: FormatName
    saved_s: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PricedPair:
    """Seconds of a run in bf16 and with each recipe, priced alike."""

    bf16_s: float
    a_s: float
    b_s: float
    source: str
    target: str
    batch_size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One of the recipes.

    `place` is (its rank by seconds on the front of its search, members), None where it has no
    front.
    """

    recipe: Recipe
    place: tuple[int, int] | None

    @property
    def name(self) -> str:
        """The recipe's."""
        return self.recipe.name

    @property
    def counts(self) -> str:
        """Linears of each format, in words."""
        counts = Counter(self.recipe.layers.values())
        return ", ".join(f"{counts[name]} {name}" for name in FormatName if counts[name])

    @property
    def said(self) -> str:
        """Its file's seconds, in words."""
        latency = self.recipe.latency
        return (
            f"{latency.quantized_s:.4g} s ({latency.speedup:.3f}x, {latency.source} for"
            f" {latency.target}, batch {latency.batch_size})"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RecipeDiff:
    """What `compare_recipes` found.

    Attributes:
        a, b: the recipes.
        changes: groups that differ, the most seconds first; () where the formats are the same.
        priced: seconds, None where nothing was priced, and then `unpriced` says why.
        incomparable: why the two LPIPS do not compare.
        lpips_difference: (mean, low, high) of B's LPIPS minus A's, a 95 % interval over prompts;
            None where they do not compare.
        notes: what else a reader should know.
    """

    a: Side
    b: Side
    changes: tuple[Change, ...]
    priced: PricedPair | None
    unpriced: str
    incomparable: tuple[str, ...]
    lpips_difference: tuple[float, float, float] | None
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As `diff --json` writes it."""
        priced, pair = self.priced, self.lpips_difference
        return {
            "identical": not self.changes,
            "a": _side_json(self.a),
            "b": _side_json(self.b),
            "changes": [
                {
                    "role": c.role,
                    "blocks": c.blocks,
                    "linears": len(c.fqns),
                    "a": c.a,
                    "b": c.b,
                    "saved_s": c.saved_s,
                    "fqns": list(c.fqns),
                }
                for c in self.changes
            ],
            "latency": (
                None
                if priced is None
                else {
                    "bf16_s": priced.bf16_s,
                    "a_s": priced.a_s,
                    "b_s": priced.b_s,
                    "source": priced.source,
                    "target": priced.target,
                    "batch_size": priced.batch_size,
                }
            ),
            "unpriced": self.unpriced or None,
            "incomparable": list(self.incomparable),
            "lpips_difference": (
                None if pair is None else {"mean": pair[0], "ci95": [pair[1], pair[2]]}
            ),
            "notes": list(self.notes),
        }


def compare_recipes(
    a: Recipe, b: Recipe, *, pricer: Pricer | None = None, unpriced: str = ""
) -> RecipeDiff:
    """Compare two recipes of one model.

    Args:
        a: the first.
        b: the second.
        pricer: prices both, see `nearest.pricer_for`; None compares formats only.
        unpriced: why there is no pricer.

    Raises:
        RecipeMismatchError: they are for other components, classes or Linears.
    """
    check_alike(a, b)
    gains, priced = dict[str, float](), None
    if pricer is not None:
        ours, theirs = (pricer.price(recipe.name, recipe.layers).estimate for recipe in (a, b))
        gains = {
            x.fqn: x.calls * (x.quantized_us - y.quantized_us) / 1e6
            for x, y in zip(ours.linears, theirs.linears, strict=True)
        }
        priced = PricedPair(
            bf16_s=ours.bf16_s,
            a_s=ours.quantized_s,
            b_s=theirs.quantized_s,
            source=ours.source,
            target=ours.target,
            batch_size=ours.batch_size,
        )
    incomparable = tuple(_incomparable(a, b))
    return RecipeDiff(
        a=Side(recipe=a, place=_place(a)),
        b=Side(recipe=b, place=_place(b)),
        changes=_changes(a, b, gains if pricer is not None else None),
        priced=priced,
        unpriced=unpriced if pricer is None else "",
        incomparable=incomparable,
        lpips_difference=None if incomparable else _difference(a, b),
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
            f"found recipes of other models: {found}; allowed are two of one model: name another"
        )
    odd = sorted(set(a.layers) ^ set(b.layers))
    if odd:
        raise RecipeMismatchError(
            f"found recipes of other models: {a.model.id!r} and {b.model.id!r} differ in {len(odd)}"
            f" Linears, the first is {odd[0]}; allowed are two of one model: name another"
        )


def _changes(a: Recipe, b: Recipe, gains: dict[str, float] | None) -> tuple[Change, ...]:
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
            saved_s=None if gains is None else sum(gains.get(fqn, 0.0) for fqn in fqns),
        )
        for (role, old, new), fqns in groups.items()
    ]
    return tuple(sorted(changes, key=lambda change: -abs(change.saved_s or 0.0)))


def blocks_in_words(fqns: Iterable[str]) -> str:
    """The blocks of Linears of one role:

    "0-5, 11"; "1.0, 1.1" where blocks are in blocks; "" outside of blocks.
    """
    indices = sorted({indices_of(block) for fqn in fqns if (block := block_of(fqn))})
    if all(len(index) == 1 for index in indices):
        return format_indices(index[0] for index in indices)
    return ", ".join(".".join(map(str, index)) for index in indices)


def _incomparable(a: Recipe, b: Recipe) -> Iterable[str]:
    """Why two LPIPS do not compare."""
    unverified = [letter for letter, recipe in (("A", a), ("B", b)) if recipe.is_unverified]
    if a.fidelity is None or b.fidelity is None:
        yield f"{' and '.join(unverified)} {'is' if len(unverified) == 1 else 'are'} unverified"
        return
    ours, theirs = a.fidelity.lpips, b.fidelity.lpips
    if ours.net != theirs.net:
        yield f"nets {ours.net} and {theirs.net}"
    if (a.model.id, a.model.revision, a.model.weights) != (
        b.model.id,
        b.model.revision,
        b.model.weights,
    ):
        yield f"weights {_weights(a)} and {_weights(b)}"
    if ours.prompts != theirs.prompts:
        yield f"other prompts ({len(ours.prompts)} and {len(theirs.prompts)})"
    elif ours.seeds != theirs.seeds:
        yield "other seeds"
    if _pictures(a) != _pictures(b):
        yield "other settings of the pictures (size, steps, guidance, batch or arithmetic)"


def _weights(recipe: Recipe) -> str:
    return (
        f"{recipe.model.id} {(recipe.model.revision or 'of no stated revision')[:24]}"
        f" ({recipe.model.weights})"
    )


def _pictures(recipe: Recipe) -> Any:
    """What a recipe says of how its pictures were drawn."""
    return ((recipe.fidelity and recipe.fidelity.model_extra) or {}).get("pictures")


def _difference(a: Recipe, b: Recipe) -> tuple[float, float, float] | None:
    if a.fidelity is None or b.fidelity is None or not a.fidelity.lpips.per_prompt:
        return None
    pairs = np.subtract(b.fidelity.lpips.per_prompt, a.fidelity.lpips.per_prompt)
    return float(pairs.mean()), *bootstrap_interval(tuple(pairs))


def _place(recipe: Recipe) -> tuple[int, int] | None:
    """Rank by seconds among the front's members, counting it as one where its seconds are one's."""
    if not recipe.front:
        return None
    own = recipe.latency.quantized_s
    return 1 + sum(member.latency.quantized_s < own * (1 - CLOSE) for member in recipe.front), len(
        recipe.front
    )


def _notes(a: Recipe, b: Recipe) -> Iterable[str]:
    if (a.model.id, a.model.revision) != (b.model.id, b.model.revision):
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


def _side_json(side: Side) -> dict[str, Any]:
    recipe = side.recipe
    lpips = (
        None
        if recipe.fidelity is None
        else {
            "mean": recipe.fidelity.lpips.mean,
            "ci95": list(recipe.fidelity.lpips.ci95),
            "net": recipe.fidelity.lpips.net,
        }
    )
    place = None if side.place is None else {"rank": side.place[0], "members": side.place[1]}
    return {
        "name": recipe.name,
        "unverified": recipe.is_unverified,
        "notice": recipe.notice,
        "quantized_linears": len(recipe.layers) - len(recipe.skip),
        "latency": recipe.latency.model_dump(mode="json"),
        "lpips": lpips,
        "front": place,
    }
