"""What does a caller ask of a search, or of a choice among the trials of one?

Two records: `SearchRequest` and `SelectRequest`. Each checks its own values when it is made, so a
wrong value is refused before any weight is loaded and before the Hub is asked for anything. Texts
become what they name: a format, a path, a sampler (`core.typed_fields`).

    SearchRequest(formats=(FormatName.NVFP4,), budget=50, max_lpips=0.1)
    SearchRequest(seed=-1)                                   # UserError
    SelectRequest(wanted=Wanted(seed=1), min_speedup=1.3)

Not checked here: whether the target has the formats, which depends on the study (`prepare`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sensitivity.consumers.named_consumers import check_consumers
from sensitivity.core.arithmetic import Arithmetic
from sensitivity.core.devices import check_device
from sensitivity.core.format_name import FormatName, Granularity, Source, parse_formats
from sensitivity.core.short_reprs import ShortRepr
from sensitivity.core.step_policy import EdgeMode
from sensitivity.core.storage_url import Storage
from sensitivity.core.typed_fields import coerce_fields
from sensitivity.errors import UserError
from sensitivity.fidelity.judges.wishes import JudgeWishes
from sensitivity.fidelity.references import default_cache_folder
from sensitivity.formats.native_formats import default_arithmetic
from sensitivity.formats.served import format_in
from sensitivity.latency.runtimes import choose_runtime
from sensitivity.latency.step_mix import edge_terms
from sensitivity.search.finished import Wanted
from sensitivity.search.front import Constraints, check_constraints
from sensitivity.search.proposers import SamplerName, stock_sampler
from sensitivity.search.step_policies import EdgeSteps, asked_steps
from sensitivity.spec.study_spec import check_budget
from sensitivity.workflows.picture_files import KEPT_PROMPTS


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class _Request(ShortRepr):
    """What both requests have.

    Attributes:
        max_lpips: largest mean LPIPS that the winner may have.
        max_typical: largest typical LPIPS that the winner may have.
        max_flips: how many of the held-out prompts, and of the search prompts, may become another
            picture.
        min_speedup: least speedup over bf16 that the winner must have.
        max_seconds: most priced seconds of a run that the winner may take.
        max_memory_bytes: the largest peak of GPU memory that a run of the winner may have, as it is
            predicted: without what CUDA itself takes (`latency.memory`).
        max_judge, min_judge: {judge: bound on its mean over the held-out prompts}, of judges where
            lower, or higher, is better.
        judges: judges that must look at the held-out pictures, beside those that are installed:
            names of `fidelity.judges.known.KNOWN`, or "module:function"; "none" leaves out those
            that are installed.
        objective: "module:function" that takes the place of LPIPS; None is LPIPS.
        storage: the study's database: the path of a file, or the URL of a PostgreSQL database; None
            is `default_storage`.
        device: where torch runs.
        compiled: whether the denoiser's blocks are compiled; None lets `Evaluator` decide.
        cache_folder: where bf16 references are kept.
        keep_pictures: prompts of each verified list whose pictures are kept for its report.
        command: the command line that asks for it, which the recipe keeps.
    """

    _changes_only = True

    max_lpips: float | None = None
    max_typical: float | None = None
    max_flips: int | None = None
    min_speedup: float | None = None
    max_seconds: float | None = None
    max_memory_bytes: int | None = None
    max_judge: Mapping[str, float] = field(default_factory=dict)
    min_judge: Mapping[str, float] = field(default_factory=dict)
    judges: tuple[str, ...] = ()
    objective: str | None = None
    storage: Storage | None = None
    device: str = "cpu"
    compiled: bool | None = None
    cache_folder: Path = field(default_factory=default_cache_folder)
    keep_pictures: int = KEPT_PROMPTS
    command: str | None = None

    @property
    def constraints(self) -> Constraints:
        """The bounds on the winner."""
        return Constraints(
            max_lpips=self.max_lpips,
            max_typical=self.max_typical,
            max_flips=self.max_flips,
            min_speedup=self.min_speedup,
            max_seconds=self.max_seconds,
            max_memory_bytes=self.max_memory_bytes,
            max_judge=self.max_judge,
            min_judge=self.min_judge,
        )

    @property
    def wishes(self) -> JudgeWishes:
        """What is asked of judges."""
        return JudgeWishes(asked=self.judges, max_judge=self.max_judge, min_judge=self.min_judge)

    def __post_init__(self) -> None:
        """Raise UserError for a bound or a device that cannot be used."""
        coerce_fields(self)
        check_constraints(self.constraints)
        _ = self.wishes
        check_device(self.device)
        if self.keep_pictures < 0:
            raise UserError(
                f"`keep_pictures` is {self.keep_pictures}; expected 0 or more: choose how many"
                " prompts a report shows, such as 12"
            )


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class SearchRequest(_Request):
    """What a search is asked for.

    Attributes:
        formats: the quantized formats that are searched.
        arithmetic: the runtime whose quantized numbers are computed; None is `own_arithmetic`.
        emulate: whether pictures are drawn by emulation also where the device has the formats.
        budget: trials.
        target: the GPU that is priced; None is the study's.
        seed: of the proposals.
        sampler: what proposes skip-lists.
        granularity: what changes format together.
        calibrated: whether layer sensitivities guide the proposals.
        runtime: the way of running that is priced; None is the default.
        latency: whether prices are measured on the GPU at hand or predicted for the target; None is
            measured where that is possible (`workflows.latency_source`).
        consumers: the tools that will serve the model, by the names of their exporters; every
            choice is one that each of them can express. Their order says nothing.
        edge_steps: what a quantized Linear computes in at edge steps, which the search chooses with
            the skip-list; None: every step runs as the skip-list says.
        first_steps, last_steps: how many first and last steps may be edge steps; None: chosen by
            the length of a run (`search.step_policies`).
        shared: whether other processes may search by the same file too; a server is always shared.
        joins: the name of the study that this must be, as another process began it; None is any.

    Raises:
        UserError: a value that works with no model.
    """

    formats: tuple[FormatName, ...] = (FormatName.NVFP4,)
    arithmetic: Arithmetic | None = None
    emulate: bool = False
    budget: int = 50
    target: str | None = None
    seed: int = 0
    sampler: SamplerName = SamplerName.KNAPSACK
    granularity: Granularity = "group"
    calibrated: bool = True
    latency: Source | None = None
    runtime: str | None = None
    consumers: tuple[str, ...] = ()
    edge_steps: EdgeMode | None = None
    first_steps: tuple[int, ...] | None = None
    last_steps: tuple[int, ...] | None = None
    shared: bool = False
    joins: str | None = None

    def __post_init__(self) -> None:
        """Raise UserError for a value that works with no model."""
        object.__setattr__(self, "formats", parse_formats(self.formats))
        _Request.__post_init__(self)
        check_budget(self.budget)
        choose_runtime(self.runtime)
        if isinstance(self.seed, bool) or not 0 <= self.seed < 2**32:
            expected = f"at most {2**32 - 1}" if self.seed > 0 else "0 or more"
            raise UserError(f"`seed` is {self.seed}; expected {expected}: choose another")
        object.__setattr__(self, "consumers", check_consumers(self.consumers, self.formats))
        _ = self.steps_asked
        for name in self.formats:
            format_in(name, self.arithmetic or Arithmetic.EAGER)
        if self.sampler != SamplerName.KNAPSACK:
            stock_sampler(self.sampler, seed=0)  # made once now, so that it cannot fail later

    @property
    def steps_asked(self) -> EdgeSteps | None:
        """Which step policies are asked for; None is the plain one alone.

        Raises UserError for counts of steps that cannot be.
        """
        return asked_steps(self.edge_steps, self.first_steps, self.last_steps)

    @property
    def priced_formats(self) -> tuple[FormatName, ...]:
        """The formats whose prices a search needs: those of edge steps in A16 too."""
        if self.edge_steps is not EdgeMode.A16:
            return self.formats
        terms = [name for own in self.formats for name in edge_terms(own, EdgeMode.A16)]
        return tuple(dict.fromkeys([*self.formats, *terms]))

    @property
    def own_arithmetic(self) -> Arithmetic:
        """`arithmetic`, or that of the kernels that are installed: mslk where NVFP4 runs natively
        with it, else eager.
        """
        return self.arithmetic or default_arithmetic(
            self.formats, self.device, emulate=self.emulate
        )


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class SelectRequest(_Request):
    """What is chosen from a study that is in the database.

    Attributes:
        wanted: which study.
        verify: whether held-out scores that are missing are made; False generates no picture.

    Raises:
        UserError: a value that works with no model.
    """

    wanted: Wanted = field(default_factory=Wanted)
    verify: bool = True
