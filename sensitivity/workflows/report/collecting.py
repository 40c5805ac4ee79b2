"""How does a report come together? `collect_report`: subject in, records out.

    report = collect_report(find_subject("tiny-flux"))
    report.gaps                                 # {"pictures": "No pictures were kept. ..."}

Each part is collected by a module of its own. A part that cannot be had leaves a gap with the
reason in words; only a subject that is not there at all is an error. Nothing is generated, trained
or measured, no weight is loaded, and no database is changed.
"""

from collections.abc import Mapping

from sensitivity.core.format_name import FormatName
from sensitivity.core.words import first_line
from sensitivity.errors import SensitivityError
from sensitivity.recipes.recipe import Recipe
from sensitivity.search.finished import KeptStudy
from sensitivity.search.loop import SearchResult, read_search
from sensitivity.search.step_policies import asked_steps
from sensitivity.search.store import Store, kept_beside
from sensitivity.workflows.picture_files import pictures_beside, pictures_folder
from sensitivity.workflows.progress import Say, silent
from sensitivity.workflows.report.gallery import NONE_KEPT, gallery_of
from sensitivity.workflows.report.model_side import ModelSide, Way, layers_of_recipe
from sensitivity.workflows.report.picture_records import Gallery
from sensitivity.workflows.report.records import Layer, Model, Report, Time
from sensitivity.workflows.report.reproduction import reproduction_of
from sensitivity.workflows.report.snippets import snippets_of
from sensitivity.workflows.report.subject import Subject
from sensitivity.workflows.report.trial_side import trial_records
from sensitivity.workflows.report.trust import trust_of
from sensitivity.workflows.report.unseen import unseen_of
from sensitivity.workflows.report.verdict import verdict_of
from sensitivity.workflows.stored_damage import stored_damage

NO_RECIPE = (
    "The study has no recipe yet: its search was not finished, or its recipe lies elsewhere. What"
    " follows is what was tried so far."
)


def collect_report(subject: Subject, *, say: Say = silent) -> Report:
    """All that is known of a subject.

    Args:
        subject: a recipe, a study, or both.
        say: called with each step as it begins.
    """
    recipe, gaps = subject.recipe, dict[str, str]()
    if recipe is None:
        gaps["verdict"] = NO_RECIPE
    if subject.no_trials:
        gaps["trials"] = subject.no_trials
    say("running without weights")
    side = _model_side(subject, gaps)
    say("reading trials")
    result = _trials(subject, side, gaps)
    trials = () if result is None or side is None else trial_records(result, side.candidates)
    say("collecting")
    formats: Mapping[str, FormatName] = {} if recipe is None else recipe.assignment
    gallery, missing = _gallery(subject)
    if missing:
        gaps["pictures"] = missing
    return Report(
        title=_title(subject),
        model=_model(subject),
        verdict=None if recipe is None else verdict_of(recipe),
        recipe={} if recipe is None else recipe.model_dump(mode="json"),
        recipe_file=subject.recipe_path.name if subject.recipe_path is not None else "",
        snippets=() if recipe is None else snippets_of(recipe),
        gallery=gallery,
        trials=trials,
        groups=() if side is None else side.groups(),
        formats=() if side is None else tuple(name.value for name in side.candidates.formats),
        policies=() if side is None else tuple(own.words for own in side.candidates.policies),
        layers=_layers(subject, side, formats, gaps),
        time=Time() if side is None else side.time(formats),
        trust=trust_of(recipe, trials),
        unseen=unseen_of(recipe, side, result),
        reproduction=reproduction_of(recipe, subject.kept),
        gaps=gaps,
    )


def _title(subject: Subject) -> str:
    if subject.recipe is not None:
        return subject.recipe.name
    return subject.kept.name if subject.kept is not None else "a study"


def _model(subject: Subject) -> Model:
    spec, recipe = subject.spec, subject.recipe
    if recipe is not None:
        own = recipe.model
        return Model(
            name=recipe.model.id if spec is None else spec.name,
            id=own.id,
            revision=own.revision,
            pipeline=own.pipeline_class,
            weights=own.weights,
            linears=len(recipe.layers),
            stands_for=recipe.latency.stands_for,
        )
    assert spec is not None, "a subject without a recipe has a study"
    return Model(
        name=spec.name,
        id=spec.model.hub or spec.name,
        revision=spec.model.revision,
        weights=spec.model.weights,
        stands_for=spec.pricing.stands_for,
    )


def _model_side(subject: Subject, gaps: dict[str, str]) -> ModelSide | None:
    """Shapes and prices; None where they cannot be had."""
    if subject.spec is None:
        gaps["layers"] = "The study of this recipe is not known here, so shapes and prices are not."
        return None
    try:
        way = _way(subject.recipe, subject.kept, subject.spec.pricing.target)
        side = ModelSide.of(subject.spec, way)
    except SensitivityError as error:
        gaps["layers"] = f"Shapes and prices cannot be had: {first_line(error)}"
        return None
    if subject.recipe is not None and set(subject.recipe.layers) != set(side.candidates.fqns):
        gaps["layers"] = "The study's model has other Linears than the recipe."
        return None
    return side


def _way(recipe: Recipe | None, kept: KeptStudy | None, target: str) -> Way:
    """How the search priced and grouped, from the study, else from the recipe."""
    if kept is not None and kept.settings is not None:
        own = kept.settings
        return Way(
            formats=own.formats,
            target=own.target,
            runtime=own.runtime,
            granularity=own.granularity,
            prices=kept.prices,
            consumers=own.consumers,
            steps=asked_steps(own.edge_steps, own.first_steps, own.last_steps),
        )
    if recipe is None:
        return Way(formats=(FormatName.NVFP4,), target=target)
    found = dict.fromkeys(name for name in recipe.layers.values() if name.is_quantized)
    granularity = getattr(recipe.search, "granularity", "group")
    return Way(
        formats=tuple(sorted(found)) or (FormatName.NVFP4,),
        target=recipe.latency.target,
        runtime=recipe.latency.runtime or None,
        granularity="layer" if granularity == "layer" else "group",
        consumers=recipe.search.consumers,
    )


def _trials(subject: Subject, side: ModelSide | None, gaps: dict[str, str]) -> SearchResult | None:
    """The study's trials; None where they cannot be read."""
    if subject.kept is None or subject.database is None:
        return None
    if side is None:
        gaps["trials"] = gaps["layers"]
        return None
    try:
        with Store.read(subject.database) as store:
            return read_search(store, subject.kept.name, side.candidates)
    except SensitivityError as error:
        why = first_line(error, most=400)
        gaps["trials"] = f"The trials cannot be read with the prices of this version: {why}"
        return None


def _layers(
    subject: Subject,
    side: ModelSide | None,
    formats: Mapping[str, FormatName],
    gaps: dict[str, str],
) -> tuple[Layer, ...]:
    """Every Linear, with its part of the calibrated damage where the database has it."""
    if side is None:
        return () if subject.recipe is None else layers_of_recipe(subject.recipe)
    damage: dict[str, float] = {}
    if subject.database is not None and subject.spec is not None:
        try:
            for name in side.candidates.formats[1:]:
                found = stored_damage(side.pricer, subject.spec, name, subject.database)
                damage |= {fqn: max(part, damage.get(fqn, 0.0)) for fqn, part in found.items()}
        except SensitivityError as error:
            gaps["layers"] = f"The damage of single Linears cannot be read: {first_line(error)}"
    return side.layers(formats, damage)


def _gallery(subject: Subject) -> tuple[Gallery, str]:
    """Pictures beside the database; without one beside the recipe, where `verify` keeps its own."""
    recipe, path, spec = subject.recipe, subject.recipe_path, subject.spec
    if subject.database is not None and subject.kept is not None and spec is not None:
        folder = pictures_folder(kept_beside(subject.database, spec), subject.kept.name)
    elif recipe is not None and path is not None and spec is not None:
        folder = pictures_beside(path, recipe, spec)
    else:
        return Gallery(), NONE_KEPT
    return gallery_of(subject.recipe, folder)
