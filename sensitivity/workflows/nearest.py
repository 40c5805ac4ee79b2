"""What if a consumer cannot express a recipe? `nearest_recipe`: the nearest one that it can.

    found = nearest_recipe(recipe, "vllm-omni")
    found.recipe.save("nearest.json")
    found.after.estimate.quantized_s     # more than before: no Linear gets a coarser format

Both recipes are priced on one run without weights, for the recipe's GPU and batch. If the study's
database has layer sensitivities, `damage` says which part of the calibrated damage the changed
Linears carried. No picture is generated, so the nearest recipe is unverified.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sensitivity.core.assignment import Assignment
from sensitivity.core.format_name import FormatName
from sensitivity.core.short_reprs import ShortRepr
from sensitivity.core.storage_url import Storage, parse_storage
from sensitivity.core.words import and_more
from sensitivity.errors import RecipeError
from sensitivity.latency.pricer import PricedList, Pricer
from sensitivity.recipes.recipe import Recipe
from sensitivity.recipes.unverified import priced_recipe, refusals, study_of
from sensitivity.spec.loading import spec_of
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.model_linears import check_same_linears
from sensitivity.workflows.stored_damage import stored_damage

if TYPE_CHECKING:
    from sensitivity.consumers.exporters import Exporter

Changes = Mapping[str, tuple[FormatName, FormatName]]
"""{FQN: (format in the recipe, format in the nearest one)} of the Linears that differ."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Nearest(ShortRepr):
    """The nearest expressible recipe.

    Attributes:
        recipe: it, unverified.
        obstacles: why the given recipe cannot be expressed.
        changed: what differs.
        before: the price of the given recipe.
        after: the price of the nearest one.
        damage: {format in the given recipe: part of the damage calibrated for it that the changed
            Linears carry}; empty where nothing is calibrated.
    """

    recipe: Recipe
    obstacles: tuple[str, ...]
    changed: Changes
    before: PricedList
    after: PricedList
    damage: Mapping[FormatName, float]

    def to_json(self) -> dict[str, Any]:
        """The nearest recipe in the JSON object of `sensitivity export`."""
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
    return _pricer(recipe, _with_batch_of(recipe, spec))


def _pricer(recipe: Recipe, spec: StudySpec) -> Pricer:
    from sensitivity.shapes.run import run_shapes

    run = run_shapes(spec)
    check_same_linears(recipe, run.table)
    return Pricer.of(spec, run, target=recipe.latency.target)


def _with_batch_of(recipe: Recipe, spec: StudySpec) -> StudySpec:
    """The study, priced at the recipe's batch size."""
    pricing = spec.pricing.model_copy(update={"batch_size": recipe.latency.batch_size})
    return spec.model_copy(update={"pricing": pricing})


def nearest_recipe(
    recipe: Recipe,
    exporter: "Exporter | str",
    spec: StudySpec | str | os.PathLike[str] | None = None,
    *,
    storage: Storage | str | None = None,
) -> Nearest:
    """The nearest recipe that a consumer can express. It is exported once as a proof.

    Args:
        recipe: one that the consumer may or may not be able to express.
        exporter: the consumer's, or its name.
        spec: the recipe's study, or what `resolve_spec` takes; None: see `unverified.study_of`.
        storage: the study's database, where layer sensitivities may be.

    Raises:
        RecipeMismatchError: the study's model has other Linears.
        RecipeError: not even the nearest can be expressed.
    """
    if isinstance(exporter, str):
        from sensitivity.consumers.exporters import get_exporter

        exporter = get_exporter(exporter)
    spec = _with_batch_of(recipe, study_of(recipe) if spec is None else spec_of(spec))
    pricer = _pricer(recipe, spec)
    formats = _nearest_formats(recipe, exporter, pricer)
    changed = {
        fqn: (old, formats[fqn]) for fqn, old in recipe.layers.items() if formats[fqn] is not old
    }
    assignment = Assignment(formats, recipe.assignment.policy)
    after = pricer.price("nearest", assignment)
    consumer = f"{exporter.name} ({exporter.form})"
    made = priced_recipe(
        after,
        pricer.run,
        spec,
        name=f"{recipe.name[:200]}-for-{exporter.name}",
        notice=(
            f"the nearest that {consumer} can express to the recipe {recipe.name!r}: {len(changed)}"
            " Linears have another format. Its seconds are predicted, its pictures were not"
            " compared"
        ),
    )
    nearest = _of_the_model(made, recipe)
    if left := exporter.obstacles(nearest):
        raise RecipeError(
            f"found no recipe near {recipe.name!r} that {consumer} can express:"
            f" {and_more(left, most=5, separator='; ')}; use another exporter"
        )
    exporter.export(nearest, allow_random_weights=True)
    return Nearest(
        recipe=nearest,
        obstacles=tuple(exporter.obstacles(recipe)),
        changed=changed,
        before=pricer.price(recipe.name, recipe.assignment),
        after=after,
        damage={} if storage is None else _damage(pricer, spec, changed, parse_storage(storage)),
    )


def _of_the_model(made: Recipe, recipe: Recipe) -> Recipe:
    """The new recipe with the model record of the given one: its revision and weights."""
    return Recipe.from_mapping(
        made.model_dump(mode="json") | {"model": recipe.model.model_dump(mode="json")}
    )


def _nearest_formats(recipe: Recipe, exporter: "Exporter", pricer: Pricer) -> dict[str, FormatName]:
    """The formats that the exporter proposes.

    It knows no shapes, so it may propose a format that does not take a Linear (MXFP8 takes no K =
    48), or that the target's kernel refuses. Such a Linear becomes bf16, and the exporter is asked
    again.
    """
    formats = exporter.nearest(recipe)
    while refused := refusals(formats, pricer.run.table) | pricer.refused(formats):
        formats = exporter.nearest(
            recipe.model_copy(update={"layers": formats | dict.fromkeys(refused, FormatName.BF16)})
        )
    return formats


def _damage(
    pricer: Pricer, spec: StudySpec, changed: Changes, storage: Storage
) -> dict[FormatName, float]:
    """{format in the given recipe: the damage of the changed Linears that had it}."""
    parts: dict[FormatName, float] = {}
    for name in dict.fromkeys(old for old, _ in changed.values()):
        stored = stored_damage(pricer, spec, name, storage)
        if stored:
            mine = [fqn for fqn, (old, _) in changed.items() if old is name]
            parts[name] = sum(stored.get(fqn, 0.0) for fqn in mine)
    return parts
