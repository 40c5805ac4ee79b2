"""By what are a study's pictures compared with bf16's? A distance that decides, and judges.

    compared = compare_by(spec, device="cpu", wishes=JudgeWishes(), objective=None)
    compared.distance, compared.panel

The distance is LPIPS, or the objective that the caller named; then LPIPS is one of the judges,
where its weights are on this machine. What a caller named is tried out here, before any weight of
the model is loaded.
"""

from dataclasses import dataclass

from sensitivity.core.words import first_line
from sensitivity.errors import MissingWeightsError, UserError
from sensitivity.fidelity.distance import Distance
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.fidelity.judges.lpips import Lpips
from sensitivity.fidelity.judges.objective import OwnDistance
from sensitivity.fidelity.judges.panel import FRAMES_PER_SECOND, Panel
from sensitivity.fidelity.judges.wishes import JudgeWishes
from sensitivity.fidelity.lpips import study_distance
from sensitivity.recipes.recipe import Recipe
from sensitivity.spec.call_names import frames_in
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.progress import Say, silent

RATES = ("frame_rate", "fps")
"""Settings that say how many frames of a clip are shown in a second."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """By what pictures are compared.

    Attributes:
        distance: what a search minimises.
        panel: judges of held-out pictures.
    """

    distance: Distance
    panel: Panel


def compare_by(
    spec: StudySpec,
    *,
    device: str,
    wishes: JudgeWishes | None = None,
    objective: str | None = None,
    say: Say = silent,
) -> Compared:
    """The distance and the judges of a study.

    Args:
        spec: the study.
        device: where LPIPS and judges run that run on a GPU.
        wishes: what is asked of judges; None asks for none in particular.
        objective: "module:function" in place of LPIPS.
        say: called where LPIPS cannot be recorded beside an objective.

    Raises:
        MissingWeightsError: LPIPS needs weights that are not on this machine.
        UserError: a judge or the objective that was named cannot be used.
    """
    is_video = frames_in(spec.settings) is not None
    panel = Panel(
        wishes or JudgeWishes(),
        prompts=spec.prompts.held_out,
        is_video=is_video,
        stride=spec.fidelity.frame_stride,
        frames_per_second=_frames_per_second(spec),
        device=device,
    )
    if objective is None:
        return Compared(distance=study_distance(spec, device=device), panel=panel)
    distance = OwnDistance(objective, is_video=is_video)
    try:
        panel.add(Lpips(study_distance(spec, device=device)))
    except MissingWeightsError as error:
        say(f"LPIPS is not recorded beside it: {first_line(error, most=120)}")
    return Compared(distance=distance, panel=panel)


def say_by_what(evaluator: Evaluator, say: Say) -> None:
    """Say what the pictures of a search are compared by, where that is not plain LPIPS, and which
    judges do not look.
    """
    if isinstance(evaluator.distance, OwnDistance):
        say(f"the objective is {evaluator.distance.name}: it stands where LPIPS is written")
    for note in () if evaluator.panel is None else evaluator.panel.notes:
        say(note)


def check_objective(recipe: Recipe, objective: str | None) -> None:
    """Raise UserError where a recipe's values are those of another objective."""
    if recipe.fidelity is None or recipe.fidelity.objective == objective:
        return
    said, here = recipe.fidelity.objective or "LPIPS", objective or "LPIPS"
    raise UserError(
        f"the recipe's values are those of {said}, and `objective` is {here}; expected the same:"
        f" {'leave `objective` out' if recipe.fidelity.objective is None else 'name that one'}"
    )


def _frames_per_second(spec: StudySpec) -> float:
    found = (spec.settings.get(name) for name in RATES)
    return next(
        (float(rate) for rate in found if isinstance(rate, int | float) and rate > 0),
        FRAMES_PER_SECOND,
    )
