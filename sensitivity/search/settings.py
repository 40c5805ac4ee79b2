"""What is a search asked for, and which study does that make? `SearchSettings`, `study_name`.

The name of a study ends with a fingerprint of all that decides its result: evaluation, groups and
their prices, formats, target, seed, sampler, consumers, and early stopping. Prices that were
measured are part of it by the values of their rows, so two searches by one table are one study. So
the same command finds its own study again, and another command never adds trials to it. The budget
is left out: a study may be continued with a larger one.

    study_name(evaluator, candidates, settings)      # "tiny-flux-nvfp4-b200-1a2b3c4d"
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sensitivity.core.arithmetic import Arithmetic
from sensitivity.core.format_name import FormatName, Granularity, Source
from sensitivity.core.step_policy import EdgeMode
from sensitivity.core.typed_fields import coerce_fields
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.latency.runtimes import DEFAULT
from sensitivity.models.generating import digest_of
from sensitivity.search.candidates import Candidates
from sensitivity.search.proposers import SamplerName
from sensitivity.search.stopping import ALPHA
from sensitivity.spec.study_spec import FidelitySection

PROPOSALS, EARLIER = 4, 3
"""Version of the proposals, and the one before: a change of what is proposed, or of what trials are
ranked by, makes other studies.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchSettings:
    """What a search is asked for. The study keeps it as JSON.

    Attributes:
        formats: searched formats, without bf16.
        target: the GPU that is priced.
        budget: proposals in all; baselines come on top.
        seed: of the proposals.
        sampler: what proposes.
        granularity: what is quantized together.
        calibrated: whether layer sensitivities guide the proposals.
        arithmetic: the runtime whose quantized numbers are computed.
        emulate: whether pictures are drawn by emulation also where the device has the formats; None
            in studies of earlier versions, which emulated all but FP8.
        latency: whether the prices were measured on the target, or predicted for it.
        runtime: the name of the way of running that is priced.
        objective: what was minimised instead of LPIPS, as "module:function"; None: LPIPS.
        consumers: the tools that can express every choice, by the names of their exporters.
        edge_steps: what a quantized Linear computes in at edge steps; None: there are none, and
            every step runs as the skip-list says.
        first_steps, last_steps: how many first and last steps may be edge steps; None: chosen by
            the length of a run (`search.step_policies`).
    """

    formats: tuple[FormatName, ...]
    target: str
    budget: int
    seed: int = 0
    sampler: SamplerName = SamplerName.KNAPSACK
    granularity: Granularity = "group"
    calibrated: bool = True
    arithmetic: Arithmetic = Arithmetic.EAGER
    emulate: bool | None = None
    latency: Source = "predicted"
    runtime: str = DEFAULT
    objective: str | None = None
    consumers: tuple[str, ...] = ()
    edge_steps: EdgeMode | None = None
    first_steps: tuple[int, ...] | None = None
    last_steps: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Raise UserError for a value of another type."""
        coerce_fields(self)

    @property
    def keeps_to_emulation(self) -> bool:
        """`emulate`, or what an earlier version did with these formats."""
        return FormatName.FP8 not in self.formats if self.emulate is None else self.emulate


def study_name(
    evaluator: Evaluator,
    candidates: Candidates,
    settings: SearchSettings,
    *,
    proposals: int = PROPOSALS,
) -> str:
    """The name of the study that these settings make, the same on every call.

    Args:
        evaluator, candidates, settings: all that decides its result.
        proposals: the version of the proposals.
    """
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
            "proposals": proposals,
        }
        | ({"alpha": ALPHA} if interim_tests(evaluator) else {})
        | _sound_terms(evaluator)
        | _measured_terms(candidates)
        | _runtime_terms(candidates, settings)
        | ({"consumers": list(settings.consumers)} if settings.consumers else {})
        | _step_terms(candidates)
    )
    return f"{evaluator.spec.name}-{'+'.join(settings.formats)}-{settings.target}-{fingerprint[:8]}"


def _measured_terms(candidates: Candidates) -> dict[str, Any]:
    """The rows that measured prices come from, and bf16's seconds; nothing for predicted ones."""
    if candidates.prices is None:
        return {}
    return {"prices": candidates.prices.digest, "bf16_s": f"{candidates.bf16_s:.9g}"}


def _runtime_terms(candidates: Candidates, settings: SearchSettings) -> dict[str, Any]:
    """The runtime if it is not the default, and the host's seconds where the host may be the limit
    of a run.
    """
    terms: dict[str, Any] = {}
    if settings.runtime != DEFAULT:
        terms["runtime"] = settings.runtime
    if candidates.host is not None:
        bf16 = [candidates.host.gpu_s, candidates.host.host_s]
        added = [list(group.host_s) for group in candidates.groups]
        terms["host"] = [[f"{seconds:.9g}" for seconds in row] for row in (bf16, *added)]
    return terms


def _step_terms(candidates: Candidates) -> dict[str, Any]:
    """The step policies, and what A16 edge steps save; nothing for the plain policy alone."""
    if all(policy.is_plain for policy in candidates.policies):
        return {}
    edges = [[f"{gain:.9g}" for gain in g.edge_gains_s] for g in candidates.groups]
    return {
        "policies": [policy.key for policy in candidates.policies],
        "steps": candidates.steps,
        **({"edges": edges} if any(edges) else {}),
    }


def for_words(consumers: Sequence[str]) -> tuple[str, ...]:
    """The part of a recipe's name that says for whom it is: "for-sglang"; none where that is
    nobody.
    """
    return ("for-" + "+".join(consumers),) if consumers else ()


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
