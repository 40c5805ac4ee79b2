"""What if a consumer cannot express a recipe?

The nearest one that it can, as an unverified recipe, with what it costs: `nearest_recipe`.

    found = nearest_recipe(recipe, get_exporter("vllm-omni"), study_of(recipe))
    found.recipe.save("nearest.json"); found.seconds        # more than the recipe's: no Linear gets a coarser format

Both are priced alike, on one run without weights, for the recipe's GPU and batch. Where the study's
database has layer sensitivities, `damage` says which part of the calibrated damage the changed
Linears carry, in the format that the recipe gives them. No picture is drawn: the nearest recipe is
unverified.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sensitivity.consumers.exporters import Exporter
from sensitivity.core.format_name import FormatName
from sensitivity.errors import RecipeError, RecipeMismatchError
from sensitivity.latency.pricer import PricedList, Pricer
from sensitivity.models.denoisers import joined
from sensitivity.models.skeleton import build_skeleton
from sensitivity.recipes.recipe import Recipe
from sensitivity.recipes.unverified import priced_recipe, refusing
from sensitivity.shapes.run import run_shapes
from sensitivity.shapes.table import ShapeTable
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.audit.blocks import stored_damage
from sensitivity.workflows.audit.subject import audited_model


@dataclass(frozen=True, kw_only=True, slots=True)
class Nearest:
    """The nearest expressible recipe.

    Attributes:
        recipe: it, unverified.
        obstacles: why the other one cannot be expressed.
        changed: {FQN: (format in the recipe, format now)}.
        before, after: both, priced alike.
        damage: {format in the recipe: part of its calibrated damage that the changed Linears
            carry}; empty where nothing is calibrated.
    """

    recipe: Recipe
    obstacles: tuple[str, ...]
    changed: Mapping[str, tuple[FormatName, FormatName]]
    before: PricedList
    after: PricedList
    damage: Mapping[FormatName, float]

    def to_json(self) -> dict[str, Any]:
        """As `export --json` writes it."""
        seconds = {
            "bf16_s": self.before.estimate.bf16_s,
            "recipe_s": self.before.estimate.quantized_s,
            "nearest_s": self.after.estimate.quantized_s,
        }
        return {
            "obstacles": list(self.obstacles),
            "changed": [
                {"fqn": fqn, "from": old, "to": new} for fqn, (old, new) in self.changed.items()
            ],
            "latency": {
                **seconds,
                "source": self.after.estimate.source,
                "target": self.after.estimate.target,
                "batch_size": self.after.estimate.batch_size,
            },
            "damage_of_changed": dict(self.damage),
        }


def pricer_for(recipe: Recipe, spec: StudySpec) -> Pricer:
    """Prices formats of a recipe's Linears as the recipe was priced: its GPU, its batch.

    Raises:
        RecipeMismatchError: the study's model has other Linears.
        UserError: and its kinds, for a study that cannot be run without weights, or an unknown GPU.
    """
    spec = served(recipe, spec)
    run = run_shapes(spec)
    odd = sorted(
        set(recipe.layers) ^ {*(linear.fqn for linear in run.table.linears), *run.table.uncalled}
    )
    if odd:
        raise _other_model(recipe, spec, odd)
    return Pricer.of(spec, run, target=recipe.latency.target)


def served(recipe: Recipe, spec: StudySpec) -> StudySpec:
    """The study with the recipe's batch."""
    return spec.model_copy(
        update={
            "pricing": spec.pricing.model_copy(update={"batch_size": recipe.latency.batch_size})
        }
    )


def nearest_recipe(
    recipe: Recipe, exporter: Exporter, spec: StudySpec, *, storage: Path | None = None
) -> Nearest:
    """The nearest recipe that a consumer can express, proved to be expressible.

    Args:
        recipe: one that it may or may not be able to express.
        exporter: the consumer's.
        spec: the recipe's study, see `unverified.study_of`.
        storage: the study's database, where layer sensitivities may be.

    Raises:
        RecipeMismatchError: the study's model has other Linears.
        RecipeError: not even the nearest can be expressed.
    """
    obstacles = tuple(exporter.obstacles(recipe))
    pricer = pricer_for(recipe, spec)
    formats = _nearest_formats(recipe, exporter, pricer.run.table)
    before, after = pricer.price(recipe.name, recipe.layers), pricer.price("nearest", formats)
    changed = {
        fqn: (old, formats[fqn]) for fqn, old in recipe.layers.items() if formats[fqn] is not old
    }
    consumer = f"{exporter.name} ({exporter.form})"
    made = priced_recipe(
        after,
        pricer.run,
        served(recipe, spec),
        name=f"{recipe.name[:200]}-for-{exporter.name}",
        notice=(
            f"the nearest that {consumer} can express to the recipe {recipe.name!r}: {len(changed)}"
            " Linears have another format. Its seconds are predicted, its pictures were not"
            " compared"
        ),
    )
    made = Recipe.from_mapping(
        made.model_dump(mode="json") | {"model": recipe.model.model_dump(mode="json")}
    )
    if left := exporter.obstacles(made):
        raise RecipeError(
            f"found no recipe near {recipe.name!r} that {consumer} can express:"
            f" {'; '.join(left[:5])}; use another exporter"
        )
    exporter.export(made, allow_random_weights=True)
    return Nearest(
        recipe=made,
        obstacles=obstacles,
        changed=changed,
        before=before,
        after=after,
        damage=_damage(recipe, spec, changed, storage),
    )


def _nearest_formats(
    recipe: Recipe, exporter: Exporter, table: ShapeTable
) -> dict[str, FormatName]:
    """The exporter's, with bf16 where the finer format does not take the shape of a Linear, as
    MXFP8 takes no K = 48.
    """
    formats = exporter.nearest(recipe)
    while refused := refusing(formats, table):
        formats = exporter.nearest(
            recipe.model_copy(update={"layers": formats | dict.fromkeys(refused, FormatName.BF16)})
        )
    return formats


def _damage(
    recipe: Recipe,
    spec: StudySpec,
    changed: Mapping[str, tuple[FormatName, FormatName]],
    storage: Path | None,
) -> dict[FormatName, float]:
    if storage is None or not storage.is_file():
        return {}
    model, parts = (
        audited_model(served(recipe, spec), target=recipe.latency.target),
        dict[FormatName, float](),
    )
    for name in dict.fromkeys(old for old, _ in changed.values()):
        stored = stored_damage(model, name, storage)
        if stored:
            parts[name] = sum(
                stored.get(fqn, 0.0) for fqn, (old, _) in changed.items() if old is name
            )
    return parts


def linears_of(recipe: Recipe, spec: StudySpec) -> list[str]:
    """FQNs of every Linear of the study's real modules, built without weights, named as in the
    recipe.

    Raises:
        RecipeMismatchError: the pipeline lacks a component of the recipe, or has another class
            there.
    """
    import torch

    parts = {name: getattr(build_skeleton(spec), name, None) for name in recipe.model.classes}
    for name, kind in recipe.model.classes.items():
        if type(parts[name]).__name__ != kind:
            raise RecipeMismatchError(
                f"the recipe {recipe.name!r} is for {name} ({kind}), and {spec.name} has"
                f" {type(parts[name]).__name__ if parts[name] is not None else 'none'} there; pass"
                " the model that it is for"
            )
    whole = joined({name: part for name, part in parts.items() if part is not None})
    return [fqn for fqn, child in whole.named_modules() if isinstance(child, torch.nn.Linear)]


def _other_model(recipe: Recipe, spec: StudySpec, odd: list[str]) -> RecipeMismatchError:
    return RecipeMismatchError(
        f"the recipe {recipe.name!r} and {spec.name} differ in {len(odd)} Linears, the first is"
        f" {odd[0]}; pass the model that it is for"
    )
