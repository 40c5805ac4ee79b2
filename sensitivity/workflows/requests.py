"""What a caller asks of a search or a choice, checked before a weight is loaded."""

from dataclasses import dataclass, field
from pathlib import Path

from sensitivity.core.devices import check_device
from sensitivity.core.format_name import FormatName, Granularity
from sensitivity.errors import UserError
from sensitivity.fidelity.evaluator import default_cache_folder
from sensitivity.search.finished import Wanted
from sensitivity.search.front import Constraints, check_constraints
from sensitivity.search.proposers import SamplerName, stock_sampler
from sensitivity.spec.study_spec import check_budget


@dataclass(frozen=True, kw_only=True, slots=True)
class _Request:
    """What a search and a choice among its trials have in common: bounds on the winner, where the
    study lies, where torch runs, and whether blocks are compiled there.

    `compiled` None leaves that to `Evaluator`.
    """

    max_lpips: float | None = None
    min_speedup: float | None = None
    max_seconds: float | None = None
    storage: Path | None = None
    device: str = "cpu"
    compiled: bool | None = None
    cache_folder: Path = field(default_factory=default_cache_folder)

    @property
    def constraints(self) -> Constraints:
        """What the winner must keep to."""
        return Constraints(
            max_lpips=self.max_lpips, min_speedup=self.min_speedup, max_seconds=self.max_seconds
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchRequest(_Request):
    """What the user asks for.

    `target` None is the study's; `storage` None is `default_storage`; `device` is where torch runs.
    """

    formats: tuple[FormatName, ...] = (FormatName.NVFP4,)
    budget: int = 50
    target: str | None = None
    seed: int = 0
    sampler: SamplerName = SamplerName.KNAPSACK
    granularity: Granularity = "group"
    calibrated: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectRequest(_Request):
    """What is chosen from a study that is in the database.

    `verify` False draws no held-out pictures; the rest is as in `SearchRequest`.
    """

    wanted: Wanted = field(default_factory=Wanted)
    verify: bool = True


def check_request(request: SearchRequest) -> None:
    """Raise UserError (or FormatError for a target without a format) for a request that cannot work
    on any model.
    """
    check_budget(request.budget)
    check_constraints(request.constraints)
    if request.seed < 0:
        raise UserError(f"--seed is {request.seed}; allowed is 0 or more")
    if request.sampler != SamplerName.KNAPSACK:
        stock_sampler(
            request.sampler, seed=0
        )  # one that cannot be made is said now, not after the first trials
    check_device(request.device)
