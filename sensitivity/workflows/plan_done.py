"""What of a planned search is done already? `done_of`, from the study's database, without a model.

    done = done_of(spec, request, latency="predicted")
    done.trials, done.baselines, done.study             # 20, 5, "tiny-flux-nvfp4-b200-1a2b3c4d"

The study that is meant is the one whose settings are those of the request. Whether it is really
continued also depends on weights, prompts, prices, versions and the device that draws
(`search.settings`), and these are known only when the model is loaded. So what is said here holds
if they are as they were, and `Done.describe` says so.

Nothing is loaded or written, and a search may go on meanwhile.
"""

from dataclasses import dataclass
from typing import Any

from sensitivity.core.format_name import Source
from sensitivity.core.storage_url import is_missing
from sensitivity.errors import SensitivityError
from sensitivity.latency.devices import get_device
from sensitivity.latency.runtimes import choose_runtime
from sensitivity.search.finished import KeptStudy, Wanted, list_optuna_studies
from sensitivity.search.store import Store, default_storage
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.requests import SearchRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """What a study has.

    Attributes:
        study: its name; "" where there is none.
        trials: of the budget.
        baselines: lists by hand that are scored.
    """

    study: str = ""
    trials: int = 0
    baselines: int = 0

    @property
    def has_begun(self) -> bool:
        """Whether it has a score, so that references and layer sensitivities are known."""
        return self.trials + self.baselines > 0

    def describe(self, *, budget: int) -> str:
        """What is done, as a line."""
        if not self.has_begun:
            return "nothing is done yet"
        return (
            f"done already: {min(self.trials, budget)} of {budget} trials and {self.baselines}"
            f" baselines in the study {self.study}, if weights, prompts, prices, package versions"
            " and the device are as they were"
        )

    def to_json(self) -> dict[str, Any]:
        """The JSON object of it in a plan."""
        return {"study": self.study, "trials": self.trials, "baselines": self.baselines}


def done_of(spec: StudySpec, request: SearchRequest, *, latency: Source) -> Done:
    """What the database of a study has of this search; nothing where it cannot be read.

    Args:
        spec: the study.
        request: its settings are looked for.
        latency: where prices come from.
    """
    storage = request.storage or default_storage(spec)
    if is_missing(storage):
        return Done()
    wanted = Wanted(
        formats=request.formats,
        target=get_device(request.target or spec.pricing.target).name,
        seed=request.seed,
        sampler=request.sampler,
        granularity=request.granularity,
        calibrated=request.calibrated,
        arithmetic=request.own_arithmetic,
        emulate=request.emulate,
        latency=latency,
        runtime=choose_runtime(request.runtime).name,
        consumers=request.consumers,
        edge_steps=request.edge_steps,
        first_steps=request.first_steps,
        last_steps=request.last_steps,
    )
    try:
        with Store.read(storage) as store:
            studies = list_optuna_studies(store, spec.name)
    except SensitivityError:
        return Done()
    fitting = [
        study
        for study in studies
        if study.settings is not None
        and study.settings.objective == request.objective
        and study.is_wanted(wanted)
    ]
    found = max(fitting, key=_trials, default=None)
    if found is None:
        return Done()
    return Done(study=found.name, trials=_trials(found), baselines=found.baselines)


def _trials(study: KeptStudy) -> int:
    """Trials that count towards the budget."""
    return study.finished - study.baselines + study.stopped
