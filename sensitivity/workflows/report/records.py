"""What does a report hold? Plain records: numbers, names and texts, nothing that is drawn.

`Report` is the whole. All records are frozen and have a JSON form, which the page embeds.

    Report.model_validate_json(report.model_dump_json()) == report      # True

Conventions. `_s`, `_ms` and `_us` are seconds, milliseconds and microseconds of one whole run; a
damage is LPIPS, or LPIPS with the weighted sound. A number that is not known is None, and a part
that is not known is empty, with the reason in `Report.gaps`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, JsonValue

from sensitivity.core.record_tables import RecordTable
from sensitivity.errors import UserError
from sensitivity.workflows.report._base import Interval, Part
from sensitivity.workflows.report.picture_records import Gallery
from sensitivity.workflows.report.verdict_records import Verdict


class Model(Part):
    """The model that is quantized.

    Attributes:
        name: of the study.
        id: where its weights come from.
        revision: of the weights.
        pipeline: class of the pipeline.
        weights: "pretrained", "random" or "trained-tiny".
        linears: how many Linears its denoisers have.
        stands_for: how many times larger the model is whose seconds are stated; 1 for itself.
    """

    name: str
    id: str
    revision: str | None = None
    pipeline: str = ""
    weights: str = "pretrained"
    linears: int = 0
    stands_for: int = 1


class Snippet(Part):
    """The recipe in the form of one consumer.

    Attributes:
        consumer, form: who reads it, and which of its forms.
        text: to paste; "" where the consumer cannot express the recipe.
        notes: what to know of it; why it cannot, where it cannot.
    """

    consumer: str
    form: str
    text: str = ""
    notes: tuple[str, ...] = ()


class Trial(Part):
    """One list that was tried.

    Attributes:
        name: its label, or "trial 7".
        number: of the trial; None for a list that is none of the budget.
        kind: "baseline", "proposal" or "stopped early".
        seconds: priced, of a run.
        speedup: over bf16.
        typical: as all trials together estimate it; of a stopped trial, its last estimate.
        mean: likewise.
        own_typical: of its own pictures on the search prompts; None where it was stopped.
        own_ci95: its 95 % interval.
        quantized: how many Linears are quantized.
        took_s: seconds that scoring took.
        memory_bytes: predicted peak of GPU memory in a run; None: not known, or not scored.
        on_front: whether no other list beats it on both seconds and typical damage.
        choice: the option of each group, in order: "0" is bf16, "1" the first format; after 9 come
            letters, as in base 36.
        policy: at which steps it runs at higher precision, in words; "" where at none.
        hypervolume: of all lists up to this one, as a part of the last; None for baselines that
            come before.
    """

    name: str
    number: int | None
    kind: str
    seconds: float
    speedup: float
    typical: float
    mean: float
    own_typical: float | None = None
    own_ci95: Interval | None = None
    quantized: int
    took_s: float
    memory_bytes: int | None = None
    on_front: bool = False
    choice: str
    policy: str = ""
    hypervolume: float | None = None


class Group(Part):
    """Linears that change format together.

    Attributes:
        name: role and blocks.
        members: for each option the places in `Report.layers` of what takes that format; bf16 has
            none.
        gains_ms: milliseconds of a run that each option saves; the first is bf16.
    """

    name: str
    members: tuple[tuple[int, ...], ...]
    gains_ms: tuple[float, ...]


class Layer(Part):
    """One Linear.

    Attributes:
        fqn: its name.
        block: the block that it is in; "" for none.
        role: what it does, the same in every block.
        m, k, n, calls: its shape, and how often a run calls it; 0 where that is not known.
        format: in the recipe.
        state: "free", "refused", "never called" or "fixed" (kept in bf16 in every list).
        why: the reason, for all but "free".
        damage: its part of the damage that was calibrated; None: not calibrated.
        saved_ms: that quantizing it saves a run; None: not known, or not possible.
    """

    fqn: str
    block: str
    role: str
    m: int = 0
    k: int = 0
    n: int = 0
    calls: int = 0
    format: str = "bf16"
    state: str = "free"
    why: str = ""
    damage: float | None = None
    saved_ms: float | None = None


class Shape(Part):
    """All Linears of one shape.

    Attributes:
        m, k, n: rows, in_features and out_features.
        linears, calls: how many Linears have it, and how often a run calls them in all.
        bf16_ms, recipe_ms: of a run, in bf16 and in the recipe's formats.
        best_ms: with all of them quantized; None where no format takes them.
        formats: the recipe's, in words: "12 nvfp4, 4 bf16".
        why: what decides the difference, where the prices tell.
        launch_bound: whether quantizing would lose time here, for the kernels that it launches.
    """

    m: int
    k: int
    n: int
    linears: int
    calls: int
    bf16_ms: float
    recipe_ms: float
    best_ms: float | None = None
    formats: str
    why: str = ""
    launch_bound: bool = False


class Time(Part):
    """Where the seconds of a run go.

    Attributes:
        shapes: the largest first.
        other_ms: of everything that is no Linear; None: not known.
        host: whether and where the host is the limit, in words; "" where the GPU is.
        note: what the seconds cover.
    """

    shapes: tuple[Shape, ...] = ()
    other_ms: float | None = None
    host: str = ""
    note: str = ""


class Pair(Part):
    """Two values of one thing that should agree.

    Attributes:
        name: of the list.
        first, second: as `Comparison` says.
        first_ci, second_ci: their intervals.
    """

    name: str
    first: float
    second: float
    first_ci: Interval | None = None
    second_ci: Interval | None = None


class Comparison(Part):
    """Whether what was said came true.

    Attributes:
        title, first, second: what is compared, in words.
        text: what it says, in a sentence or two.
        pairs: one for each list.
    """

    title: str
    first: str
    second: str
    text: str
    pairs: tuple[Pair, ...] = ()


class Unseen(Part):
    """Something that the search did not look at.

    Attributes:
        what: in words.
        why: in words.
        names: of Linears or patterns.
    """

    what: str
    why: str
    names: tuple[str, ...] = ()


class Reproduction(Part):
    """How to get the same result.

    Attributes:
        search: {field of a search: value}.
        pictures: {what: value} that decides the pictures.
        environment: versions and machine.
    """

    search: Mapping[str, str] = Field(default_factory=dict)
    pictures: Mapping[str, str] = Field(default_factory=dict)
    environment: Mapping[str, str] = Field(default_factory=dict)


class Report(Part):
    """All that is shown of a study or a recipe.

    Attributes:
        title: one line.
        model: what is quantized.
        verdict: the recipe; None where the study has none yet.
        recipe: the recipe's file as JSON; {} where there is none.
        recipe_file: the name of that file.
        snippets: the recipe for each consumer.
        gallery: pictures.
        trials: every list that was tried, in order.
        groups: what the lists choose.
        formats: the options of a choice.
        policies: the step policies that were searched, in words.
        layers: every Linear.
        time: where the seconds go.
        trust: whether predictions came true.
        unseen: what was not looked at.
        reproduction: how to get the same.
        gaps: {part: why it is not there, in words}.
    """

    title: str
    model: Model
    verdict: Verdict | None = None
    recipe: Mapping[str, JsonValue] = Field(default_factory=dict)
    recipe_file: str = ""
    snippets: tuple[Snippet, ...] = ()
    gallery: Gallery = Gallery()
    trials: tuple[Trial, ...] = ()
    groups: tuple[Group, ...] = ()
    formats: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()
    layers: tuple[Layer, ...] = ()
    time: Time = Time()
    trust: tuple[Comparison, ...] = ()
    unseen: tuple[Unseen, ...] = ()
    reproduction: Reproduction = Reproduction()
    gaps: Mapping[str, str] = Field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Report({self._words})"

    __str__ = __repr__

    @property
    def _words(self) -> str:
        parts = [f"{len(self.trials)} lists", f"{len(self.layers)} Linears"]
        parts.append(f"pictures of {len(self.gallery.scenes)} prompts")
        return f"{self.title}: {', '.join(parts)}"

    def _repr_html_(self) -> str:
        return self._table.to_html()

    def to_pandas(self, part: str = "trials") -> Any:
        """A pandas DataFrame of one part: "trials" (the lists that were tried, the fastest first),
        "layers" (every Linear), "shapes" (where the time goes), or "against" (the recipe beside
        lists by hand).

        Raises:
            UserError: pandas is not installed, or there is no such part.
        """
        parts: dict[str, Sequence[Part]] = {
            "layers": self.layers,
            "shapes": self.time.shapes,
            "against": () if self.verdict is None else self.verdict.against,
        }
        if part == "trials":
            return self._table.to_pandas()
        if part not in parts:
            known = ", ".join(("trials", *parts))
            raise UserError(f"`part` is {part!r}; expected one of {known}: choose one of them")
        rows = [
            own.model_dump(mode="json", exclude={"damage"} if part == "against" else None)
            for own in parts[part]
        ]
        columns = tuple(rows[0]) if rows else ()
        return RecordTable(
            columns=columns, rows=tuple(tuple(row.values()) for row in rows)
        ).to_pandas()

    @property
    def _table(self) -> RecordTable:
        rows = [
            (
                own.name,
                own.kind,
                own.on_front,
                own.quantized,
                own.seconds * 1e3,
                own.speedup,
                own.typical,
                own.mean,
            )
            for own in sorted(self.trials, key=lambda own: (own.seconds, own.typical))
        ]
        columns = (
            "list",
            "kind",
            "on_front",
            "quantized",
            "ms",
            "speedup",
            "typical_lpips",
            "mean_lpips",
        )
        return RecordTable(title=self._words, columns=columns, rows=tuple(rows))
