"""What is a search asked for, and which study does that make? `SearchSettings`, `study_name`.

The name of a study ends with a fingerprint of all that decides its result: evaluation, groups and
their prices, formats, target, seed, sampler, and early stopping. So the same command finds its own
study again, and another command never adds trials to it. The budget is left out: a study may be
continued with a larger one.

    study_name(evaluator, candidates, settings)      # "tiny-flux-nvfp4-b200-1a2b3c4d"
"""

from dataclasses import dataclass
from typing import Any

from sensitivity.core.arithmetic import Arithmetic
from sensitivity.core.format_name import FormatName, Granularity
from sensitivity.core.typed_fields import coerce_fields
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.models.generating import digest_of
from sensitivity.search.candidates import Candidates
from sensitivity.search.proposers import SamplerName
from sensitivity.search.stopping import ALPHA
from sensitivity.spec.study_spec import FidelitySection

PROPOSALS = 3
"""Version of the proposals: a change of what is proposed makes other studies."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchSettings:
    """What a search is asked for. The study keeps it as JSON.

    Attributes:
        formats: searched formats, without bf16.
        target: the GPU that is priced.
        budget: trials in all.
        seed: of the proposals.
        sampler: what proposes.
        granularity: what is quantized together.
        calibrated: whether layer sensitivities guide the proposals.
        arithmetic: the runtime whose quantized numbers are emulated.
    """

    formats: tuple[FormatName, ...]
    target: str
    budget: int
    seed: int = 0
    sampler: SamplerName = SamplerName.KNAPSACK
    granularity: Granularity = "group"
    calibrated: bool = True
    arithmetic: Arithmetic = Arithmetic.EAGER

    def __post_init__(self) -> None:
        """Raise UserError for a value of another type."""
        coerce_fields(self)


def study_name(evaluator: Evaluator, candidates: Candidates, settings: SearchSettings) -> str:
    """The name of the study that these settings make, the same on every call."""
    groups = [
        [g.name, list(g.fqns), [f"{gain:.9g}" for gain in g.gains_s]] for g in candidates.groups
    ]
    fingerprint = digest_of(
        {
            "evaluation": evaluator.evaluation_key("search"),
            "groups": groups,
            "formats": list(candidates.formats),
            "target": settings.target,
            "seed": settings.seed,
            "sampler": settings.sampler,
            "calibrated": settings.calibrated,
            "proposals": PROPOSALS,
        }
        | ({"alpha": ALPHA} if interim_tests(evaluator) else {})
        | _sound_terms(evaluator)
    )
    return f"{evaluator.spec.name}-{'+'.join(settings.formats)}-{settings.target}-{fingerprint[:8]}"


def interim_tests(evaluator: Evaluator) -> int:
    """How often a trial is tested for early stopping: 0 unless the study sets `search.chunk`."""
    return evaluator.interim_looks("search") if evaluator.spec.search.chunk is not None else 0


def _sound_terms(evaluator: Evaluator) -> dict[str, Any]:
    """The study's settings of sound that are not the default."""
    own, default = evaluator.spec.fidelity, FidelitySection()
    return {
        key: getattr(own, key)
        for key in ("audio_weight", "max_audio_distance")
        if getattr(own, key) != getattr(default, key)
    }
