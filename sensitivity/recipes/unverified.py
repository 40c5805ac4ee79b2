"""What can a recipe say before a picture is drawn?

Formats and predicted seconds, labelled unverified: `priced_recipe`, and the `study_of` a recipe.

A list that somebody wrote, or the nearest recipe that a consumer can express, has a price at once
and no LPIPS. Its recipe says so: `fidelity` and `verified` are null, and `notice` stands wherever
it is shown.

    run = run_shapes(spec)
    priced = Pricer.of(spec, run).price("mine", formats)
    recipe = priced_recipe(priced, run, spec, name="flux1-dev-mine", notice="priced by shapes; no picture was drawn")

Conventions: seconds are those of `priced.estimate`, for its target and batch; a list that is slower
than bf16 is a recipe as well. Memory is that of the denoisers' weights. What it does not do: choose
formats, or say anything about quality.
"""

import re
from collections.abc import Mapping

import torch

from sensitivity.core.environment import describe_environment
from sensitivity.core.format_name import FormatName
from sensitivity.errors import FormatError, UnknownModelError
from sensitivity.formats.registry import get_format
from sensitivity.latency.pricer import PricedList
from sensitivity.recipes.parts import latency_record, layer_records
from sensitivity.recipes.recipe import UNSAFE, Recipe
from sensitivity.shapes.run import ShapeRun
from sensitivity.shapes.table import ShapeTable
from sensitivity.spec.loading import list_studies, load_spec
from sensitivity.spec.study_spec import StudySpec

FINGERPRINT = re.compile(r"-(?:bf16|nvfp4|mxfp8|fp8)(?:\+\w+)*-[\w.-]+-[0-9a-f]{8}")
"""What a search puts behind its study's name: formats, target, eight digits of a hash."""
OF_A_DEVICE = ("device_type", "device")


def priced_recipe(
    priced: PricedList, run: ShapeRun, spec: StudySpec, *, name: str, notice: str
) -> Recipe:
    """The unverified recipe of a priced list.

    Args:
        priced: the list; Linears that its formats leave out are bf16.
        run: the run that it was priced on, of all of the study's denoisers.
        spec: the study.
        name: the recipe's name; what a file name must not hold becomes a hyphen.
        notice: why no picture was compared, for people; it is shown wherever the recipe is.

    Raises:
        FormatError: a format refuses the shape of a Linear that should get it.
        PatternError: the list names a Linear that the run does not have (by `Pricer.price`,
            earlier).
    """
    formats = complete_formats(priced.formats, run.table)
    saved = sum(
        2 * linear.k * linear.n
        - get_format(formats[linear.fqn]).weight_bytes(k=linear.k, n=linear.n)
        for linear in run.table.linears
    )
    counted = run.table.run.components if run.table.run is not None else ()
    bf16_bytes = sum(part.weight_bytes for part in counted if part.component in run.classes)
    main = spec.model.component
    return Recipe.from_mapping(
        {
            "name": safe_name(name),
            "notice": notice,
            "fidelity": None,
            "verified": None,
            "model": {
                "id": spec.model.hub or spec.name,
                "revision": spec.model.revision,
                "pipeline_class": run.pipeline_class,
                "component": main,
                "component_class": run.classes[main],
                "components": dict(run.classes) if len(run.classes) > 1 else {},
                "weights": spec.model.weights,
            },
            **layer_records(formats),
            "latency": latency_record(priced.estimate, priced.estimate.quantized_s),
            "memory": {
                "bf16_bytes": bf16_bytes,
                "quantized_bytes": bf16_bytes - saved,
                "source": "predicted",
            },
            "search": {
                "study": spec.name,
                "budget": 0,
                "trials": 0,
                "sampler": "none",
                "seed": None,
            },
            "environment": {
                key: value
                for key, value in describe_environment("cpu").items()
                if key not in OF_A_DEVICE
            },
        }
    )


def safe_name(text: str) -> str:
    """A text as a recipe's name, which is safe as a file name."""
    return re.sub(rf"^\.|[{UNSAFE}]", "-", text[:256]) or "recipe"


def complete_formats(formats: Mapping[str, FormatName], table: ShapeTable) -> dict[str, FormatName]:
    """{FQN: format} of every Linear of a run, those that were never called last.

    Raises FormatError where a format refuses a Linear's shape or dtype.
    """
    whole = {
        fqn: formats.get(fqn, FormatName.BF16)
        for fqn in (*(linear.fqn for linear in table.linears), *table.uncalled)
    }
    for fqn, reason in refusing(whole, table).items():
        raise FormatError(
            f"found {fqn} in {whole[fqn]}: {reason}; allowed is a format that takes it: leave it in"
            " bf16"
        )
    return whole


def refusing(formats: Mapping[str, FormatName], table: ShapeTable) -> dict[str, str]:
    """{FQN: why} of the Linears of a run whose shape or dtype their format does not take."""
    reasons = {
        x.fqn: get_format(formats[x.fqn]).refusal(k=x.k, n=x.n, dtype=getattr(torch, x.dtype))
        for x in table.linears
    }
    return {fqn: reason for fqn, reason in reasons.items() if reason}


def study_of(recipe: Recipe) -> StudySpec:
    """The study of the package that a recipe was searched or priced with; its text is compared with
    the names of studies and never taken for a path.

    Raises:
        UnknownModelError: it is none of the package's.
    """
    said = recipe.search.study
    for name, path in list_studies().items():
        if said == name or (
            said.startswith(name) and FINGERPRINT.fullmatch(said.removeprefix(name))
        ):
            spec = load_spec(path)
            if recipe.model.id == (spec.model.hub or spec.name):
                return spec
    raise UnknownModelError(
        f"the recipe {recipe.name!r} is of the study {said[:80]!r} of {recipe.model.id[:80]!r},"
        " which does not come with the package; its shapes and seconds are those of a study: pass"
        " --model with its study TOML, folder or Hub id"
    )
