"""What is a report of? A recipe, a study in a database, or both: `Subject`, `find_subject`.

    find_subject("recipes/mine.json")       # a recipe, and its search where its database is near
    find_subject("tiny-flux")               # a study, and its recipe where one lies beside it

A recipe names the study that found it, so each leads to the other. The database of a recipe is
looked for in the recipe's own folder and where searches keep theirs. The recipe of a study is
looked for beside its database: the choice without a bound goes first, then the file's name
decides.

Nothing is loaded or generated here, and no database is changed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sensitivity.core.storage_url import Storage, is_missing
from sensitivity.core.words import first_line
from sensitivity.errors import RecipeError, SensitivityError, StoreError, UnknownModelError
from sensitivity.recipes.recipe import Recipe, load_recipe
from sensitivity.recipes.unverified import study_of
from sensitivity.search.finished import KeptStudy, Wanted, list_optuna_studies, pick_study
from sensitivity.search.store import Store, default_storage, kept_beside
from sensitivity.shapes.deriving import derive_study
from sensitivity.spec.loading import resolve_spec
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.conclude import SearchOutcome


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """What a report is of. At least one of `recipe` and `kept` is there.

    Attributes:
        spec: the study; None where it is not known, and then nothing is known of shapes.
        recipe: the recipe; None where the study has none yet.
        recipe_path: its file.
        database: the study's database, a file or a URL; None where there is none.
        kept: the study in it.
        no_trials: why there is no database, in words; "" where there is one.
    """

    spec: StudySpec | None
    recipe: Recipe | None = None
    recipe_path: Path | None = None
    database: Storage | None = None
    kept: KeptStudy | None = None
    no_trials: str = ""


def find_subject(
    named: str | Path,
    *,
    model: str | None = None,
    storage: Storage | None = None,
    study: str | None = None,
) -> Subject:
    """The subject of a report.

    Args:
        named: a recipe's file (.json), or a study as `resolve_spec` takes it.
        model: the study of a recipe whose study does not come with the package.
        storage: the database; None looks for it.
        study: the study's name, where a database holds several of the model.

    Raises:
        RecipeError: the recipe cannot be read.
        UserError: and its kinds: there is no such study, database, or study in it.
    """
    if Path(named).suffix.lower() == ".json":
        return _of_recipe(Path(named), model, storage)
    spec = derive_study(resolve_spec(str(named)))
    database = storage or default_storage(spec)
    if is_missing(database):
        raise StoreError(
            f"{database} is not there; expected the database of a search: run `sensitivity search`"
            f" for {spec.name}, name its database in `storage`, or name a recipe's file"
        )
    kept = pick_study(
        _studies(database, spec), Wanted(name=study), model=spec.name, database=str(database)
    )
    path = _recipe_of(kept, kept_beside(database, spec).parent)
    recipe = None if path is None else load_recipe(path)
    return Subject(spec=spec, recipe=recipe, recipe_path=path, database=database, kept=kept)


def subject_of_search(outcome: SearchOutcome) -> Subject:
    """The subject of what a search found.

    Raises:
        StoreError: the search's database is not there any more.
    """
    spec, database = outcome.prepared.evaluator.spec, outcome.database
    if database is None or is_missing(database):
        raise StoreError(
            f"{database or 'the database'} is not there; expected that of the search: search again,"
            " or name its recipe's file"
        )
    kept = pick_study(
        _studies(database, spec),
        Wanted(name=outcome.result.study),
        model=spec.name,
        database=str(database),
    )
    return Subject(spec=spec, recipe=outcome.recipe, database=database, kept=kept)


def _of_recipe(path: Path, model: str | None, storage: Storage | None) -> Subject:
    recipe = load_recipe(path)
    try:
        spec = study_of(recipe) if model is None else derive_study(resolve_spec(model))
    except UnknownModelError as error:
        return Subject(spec=None, recipe=recipe, recipe_path=path, no_trials=first_line(error))
    usual = default_storage(spec)
    near: list[Storage] = [path.parent / usual.name, usual]
    for database in near if storage is None else [storage]:
        if is_missing(database):
            continue
        try:
            studies = _studies(database, spec)
        except StoreError as error:
            if storage is not None:
                raise
            return Subject(
                spec=spec, recipe=recipe, recipe_path=path, no_trials=first_line(error, most=400)
            )
        found = [own for own in studies if own.name == recipe.search.study]
        if found:
            return Subject(
                spec=spec, recipe=recipe, recipe_path=path, database=database, kept=found[0]
            )
    if storage is not None:
        raise StoreError(
            f"{storage} holds no study {recipe.search.study}; expected the database of the search"
            " that found this recipe: name another `storage`, or leave it out"
        )
    return Subject(
        spec=spec,
        recipe=recipe,
        recipe_path=path,
        no_trials=(
            f"The database of the search is not at hand (looked for {usual.name} beside the recipe"
            f" and in {usual.parent}), so the page shows what the recipe itself says."
        ),
    )


def _studies(database: Storage, spec: StudySpec) -> Sequence[KeptStudy]:
    with Store.read(database) as store:
        return list_optuna_studies(store, spec.name)


def _recipe_of(kept: KeptStudy, folder: Path) -> Path | None:
    """The recipe of a study that lies in a folder; None where there is none."""
    found: list[tuple[bool, str, Path]] = []
    for path in folder.glob("*.json"):
        try:
            recipe = load_recipe(path)
        except (RecipeError, SensitivityError):
            continue
        if recipe.search.study == kept.name:
            choice = recipe.choice
            bounded = choice is not None and any(bound is not None for bound in choice.bounds)
            found.append((bounded, path.name, path))
    return min(found)[2] if found else None
