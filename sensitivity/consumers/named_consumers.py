"""Who will serve the model? The exporters of named consumers, and what these ask of its formats.

    check_consumers(["sglang"], (FormatName.NVFP4,))                    # ("sglang",)
    limits_of(("sglang",), formats, fqns=fqns, classes={"transformer": "WanTransformer3DModel"})

Every form of a consumer that has the formats counts. So a recipe for ModelOpt can be given to
`mtq.quantize`, and be exported as a checkpoint.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

from sensitivity.consumers.exporters import EXPORTERS, Exporter, get_exporter
from sensitivity.consumers.limits import Limits
from sensitivity.consumers.lists import ModelTree
from sensitivity.core.assignment import Assignment
from sensitivity.core.format_name import FormatName, quantized
from sensitivity.core.step_policy import StepPolicy
from sensitivity.errors import FormatError
from sensitivity.recipes.recipe import Recipe


def exporters_for(name: str, formats: Collection[FormatName]) -> tuple[Exporter, ...]:
    """The exporter called `name` in every form that has all of these quantized formats.

    Raises:
        RecipeError: there is no such exporter.
        FormatError: none of its forms has them; the message has what each form has.
    """
    forms = [type(get_exporter(name))(form=form) for form in type(get_exporter(name)).forms]
    found = tuple(own for own in forms if _has(own, set(formats)))
    if not found:
        has = dict.fromkeys(
            f"{own.form}: {'one of ' * (own.max_formats == 1 < len(own.formats) - 1)}"
            + ", ".join(f for f in FormatName if f in own.formats and f.is_quantized)
            for own in forms
        )
        raise FormatError(
            f"found {name} with the format {' and '.join(formats)}; expected what it can express"
            f" ({'; '.join(has)}): choose another `format`, or take it out of `consumers`"
        )
    return found


def _has(exporter: Exporter, formats: Collection[FormatName]) -> bool:
    """Whether one file of an exporter can name all of these formats."""
    named = {exporter.reads_as.get(name, name) for name in formats}
    is_apart = any(pair <= set(formats) for pair in exporter.apart)
    return exporter.formats >= set(formats) and len(named) <= exporter.max_formats and not is_apart


def exporter_for(name: str, recipe: Recipe) -> Exporter:
    """The exporter called `name` in the form that suits a recipe best: one that can express it,
    else one that has its formats; the first of several.

    Raises:
        RecipeError: there is no such exporter.
    """
    first, used = get_exporter(name), set(quantized(recipe.layers).values())
    forms = [type(first)(form=form) for form in first.forms]
    return min(forms, key=lambda own: (bool(own.obstacles(recipe)), not used <= own.formats))


def check_consumers(names: Iterable[str], formats: Collection[FormatName]) -> tuple[str, ...]:
    """The names, each once, in the order of `EXPORTERS`. Raises as `exporters_for`."""
    given = set(names)
    for name in sorted(given):
        exporters_for(name, formats)
    return tuple(name for name in EXPORTERS if name in given)


def policy_refusals(
    consumers: Iterable[str],
    policy: StepPolicy,
    formats: Sequence[FormatName],
    *,
    classes: Mapping[str, str],
) -> list[str]:
    """Why consumers do not run a model by a step policy, a sentence for each that does not.

    A consumer takes a policy if one of its forms that have a format takes it, for each format.

    Args:
        consumers: names of exporters.
        policy: the policy.
        formats: searched formats, without bf16.
        classes: {component: class} of the model's denoisers.

    Raises:
        RecipeError: there is no such consumer.
        FormatError: none of its forms has a format.
    """
    found = []
    for name in consumers:
        for fmt in formats:
            own = Assignment({"any": fmt}, policy)
            reasons = [e.policy_obstacles(own, classes) for e in exporters_for(name, [fmt])]
            if all(reasons):
                found.append(f"{name}: {'; '.join(reasons[-1])}")
                break
    return found


def limits_of(
    consumers: Iterable[str],
    formats: Sequence[FormatName],
    *,
    fqns: tuple[str, ...],
    classes: Mapping[str, str],
) -> tuple[Limits, ...]:
    """What the consumers ask of a model's formats, one record for each of their forms.

    Args:
        consumers: names of exporters.
        formats: searched formats, without bf16.
        fqns: every Linear of the model.
        classes: {component: class} of its denoisers.

    Raises:
        RecipeError: there is no such consumer.
        FormatError: a consumer lacks a format, does not know the model, or cannot keep all of its
            Linears in bf16.
    """
    tree = ModelTree(fqns=fqns, classes=classes, several=len(classes) > 1)
    found = []
    for name in consumers:
        for exporter in exporters_for(name, formats):
            limits = exporter.limits(tree)
            if why := limits.obstacles(dict.fromkeys(fqns, FormatName.BF16)):
                raise FormatError(
                    f"found a model that {limits.consumer} cannot be given recipes for: {why[0]};"
                    " expected one whose Linears it knows: take it out of `consumers`"
                )
            found.append(limits)
    return tuple(found)
