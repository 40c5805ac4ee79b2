"""What decides about a recipe? `Verdict`: speed, damage, memory, and other lists beside it.

    report.verdict.damage.typical, report.verdict.against[0].ratio

Conventions as in `records`.
"""

from collections.abc import Mapping

from pydantic import Field

from sensitivity.workflows.report._base import Interval, Part


class Damage(Part):
    """How far the pictures of one skip-list are from bf16's.

    Attributes:
        typical: geometric mean over the prompts; None where an older recipe does not tell.
        typical_ci95: its 95 % interval.
        mean: arithmetic mean, as it is stated.
        mean_ci95: its 95 % interval.
        flips: how many prompts became another picture.
        prompts: how many prompts there were.
    """

    typical: float | None = None
    typical_ci95: Interval | None = None
    mean: float
    mean_ci95: Interval | None = None
    flips: int | None = None
    prompts: int = 0


class Against(Part):
    """The recipe beside another list, on the same unseen prompts.

    Attributes:
        name: of the other list.
        speedup: of the other list over bf16, measured end to end if it was timed beside the recipe,
            else as the sum of its shapes.
        speedup_interval90: its 90 % interval; None: not known.
        is_timed: whether it was measured end to end.
        speed_ratio: the recipe's speedup over the other's, both from one source.
        damage: of the other list.
        ratio: typical damage of the recipe as a multiple of the other's.
        ratio_ci95: its 95 % interval.
        words: "half the damage of the rule of thumb for 8 % of its speed"; "" where it is not
            known.
    """

    name: str
    speedup: float | None = None
    speedup_interval90: Interval | None = None
    is_timed: bool = False
    speed_ratio: float | None = None
    damage: Damage | None = None
    ratio: float | None = None
    ratio_ci95: Interval | None = None
    words: str = ""


class Judged(Part):
    """What another metric says of the recipe's pictures beside bf16's.

    Attributes:
        name: of the metric.
        mean: over the held-out prompts.
        unit: "dB" or the like; "" for none.
        noise_floor: what it says of bf16 beside itself; None: not computed.
        higher_is_better: as of PSNR.
    """

    name: str
    mean: float
    unit: str = ""
    noise_floor: float | None = None
    higher_is_better: bool = False


class Worst(Part):
    """The held-out prompt whose picture changed most."""

    prompt: str
    lpips: float


class Kept(Part):
    """Linears that stay in bf16.

    Attributes:
        pattern: a glob of their names.
        count: how many it matches.
        reason: why.
    """

    pattern: str
    count: int
    reason: str


class Verdict(Part):
    """The recipe, in the numbers that decide.

    Attributes:
        name: of the recipe.
        trial: the trial that it is; None: not said.
        baseline: the baseline that it is ("rule of thumb"); "" for a trial, or where it is not
            said.
        speedup, speedup_interval90: over bf16.
        bf16_s, quantized_s: seconds of a run.
        origin: "predicted", "measured" or "measured end to end".
        part: what the seconds are of: "a whole run", or "the denoiser's calls".
        shapes_speedup: as the sum of shapes, where it was measured end to end.
        whole_run_speedup: of a whole run as the sum of shapes, where only a part was timed.
        target: the GPU.
        stands_for: the multiple of the model's dimensions that the seconds are of.
        damage: on prompts that the search did not see; None for an unverified recipe.
        worst: the prompt of the largest LPIPS.
        flipped: the prompts that became another picture.
        judges: what others than LPIPS say of the pictures.
        net: of LPIPS.
        objective: what the search minimised in the place of LPIPS; "" for LPIPS itself.
        noise_floor: damage of bf16 from itself.
        another_seed: LPIPS of bf16 with another seed.
        flip_rule: what counts as another picture, in words.
        quantized, linears: how many Linears are quantized, of how many.
        formats: {format: how many Linears}.
        steps: which steps run at higher precision, in words; "" where every step runs quantized.
        bf16_bytes, quantized_bytes: of the weights.
        peak_bytes, bf16_peak_bytes: peaks of GPU memory in a whole run; None: not known.
        peak_source: "predicted" or "measured"; "" where they are not known.
        against: other lists beside it.
        kept: what stays in bf16.
        rule: how it was chosen, in words.
        asked: the bounds that it was chosen by, in words.
        caveat: what the recipe says of itself; "" if nothing.
    """

    name: str
    trial: int | None = None
    baseline: str = ""
    speedup: float
    speedup_interval90: Interval | None = None
    bf16_s: float
    quantized_s: float
    origin: str
    part: str = "a whole run"
    shapes_speedup: float | None = None
    whole_run_speedup: float | None = None
    target: str
    stands_for: int = 1
    damage: Damage | None = None
    worst: Worst | None = None
    flipped: tuple[str, ...] = ()
    judges: tuple[Judged, ...] = ()
    net: str = ""
    objective: str = ""
    noise_floor: float | None = None
    another_seed: float | None = None
    flip_rule: str = ""
    quantized: int
    linears: int
    formats: Mapping[str, int] = Field(default_factory=dict)
    steps: str = ""
    bf16_bytes: int
    quantized_bytes: int
    peak_bytes: int | None = None
    bf16_peak_bytes: int | None = None
    peak_source: str = ""
    against: tuple[Against, ...] = ()
    kept: tuple[Kept, ...] = ()
    rule: str = ""
    asked: tuple[str, ...] = ()
    caveat: str = ""
