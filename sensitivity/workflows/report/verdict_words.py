"""How is a verdict said? The sentences that the last screen of a search and the page share.

    trade_words(0.49, (0.39, 0.61), 0.92, of="the rule of thumb")
    # "half the damage of the rule of thumb for 8 % of its speed"
    headline(verdict)     # "1.377x as fast as bf16, with half the damage of ..."

Damage is typical LPIPS, compared prompt by prompt. Where the interval of a ratio contains 1, or the
runtime's own roundings move it as much, no difference is claimed. Speeds are compared from one
source, predicted or measured, and never across.
"""

from sensitivity.core.words import gigabytes
from sensitivity.workflows.report._base import Interval
from sensitivity.workflows.report.verdict_records import Verdict

THUMB = "rule of thumb"
"""The label of the baseline that people use today."""
FRACTIONS = (
    (1 / 10, "a tenth of"),
    (1 / 5, "a fifth of"),
    (1 / 4, "a quarter of"),
    (1 / 3, "a third of"),
    (1 / 2, "half"),
    (2 / 3, "two thirds of"),
    (3 / 4, "three quarters of"),
)
NEAR = 0.03
"""Relative distance up to which a ratio is called by the name of a fraction."""
SAME_SPEED = 0.0005
"""Relative difference of two speedups that both print alike."""
INDISTINGUISHABLE = 0.1
"""LPIPS on alex below which two pictures are usually called nearly indistinguishable: a convention,
not a measurement.
"""


def headline(verdict: Verdict) -> str:
    """The verdict in one sentence: how much faster, and what that costs beside another list."""
    if not verdict.quantized:
        return "nothing is quantized: bf16 itself is the choice"
    text = f"{verdict.speedup:.3f}x as fast as bf16"
    if verdict.baseline:
        return f"{text}: {whose(verdict.baseline)} itself, since no trial does better"
    order = sorted(verdict.against, key=lambda own: own.name != THUMB)
    beside = next((own.words for own in order if own.words), "")
    return f"{text}, with {beside}" if beside else text


def trade_words(
    ratio: float, interval: Interval | None, speed: float, *, of: str, near: bool = False
) -> str:
    """What a recipe has of another list's damage, and what it costs or brings in speed.

    Args:
        ratio: the recipe's typical damage over the other's.
        interval: its 95 % interval; None: not known.
        speed: the recipe's speedup over the other's.
        of: the other list, in words.
        near: the difference is smaller than what the roundings of a runtime move.
    """
    unclear = near or (interval is not None and interval[0] <= 1 <= interval[1])
    if unclear:
        return f"no clear difference in damage from {of}, {_faster(speed)}"
    damage = f"{_of_damage(ratio)} of {of}"
    if abs(speed - 1) < SAME_SPEED:
        return f"{damage} at the same speed"
    if ratio < 1 and speed < 1:
        return f"{damage} for {percent(1 - speed)} of its speed"
    joint = "and" if (ratio < 1) == (speed > 1) else "but"
    return f"{damage}, {joint} {_faster(speed)}"


def whose(name: str) -> str:
    """A list's name in a sentence: "the rule of thumb", "all nvfp4"."""
    return f"the {name}" if name == THUMB else name


def percent(share: float) -> str:
    """A share with two digits where one would say little: "8 %", "0.9 %"."""
    value = 100 * share
    return f"{value:.0f} %" if value >= 0.95 else f"{value:.1g} %"


def anchors(verdict: Verdict) -> tuple[tuple[float, str], ...]:
    """(LPIPS, what has it), to compare with; largest first."""
    found: list[tuple[float, str]] = []
    if verdict.another_seed is not None:
        found.append((verdict.another_seed, "another seed"))
    if verdict.net == "alex" and not verdict.objective:
        found.append((INDISTINGUISHABLE, "nearly indistinguishable on alex"))
    if verdict.noise_floor is not None:
        found.append((verdict.noise_floor, "bf16 computed again"))
    return tuple(sorted(found, reverse=True))


def peak_words(verdict: Verdict) -> str:
    """The peak of GPU memory beside bf16's, and where both come from; "" where it is not known."""
    peak, bf16 = verdict.peak_bytes, verdict.bf16_peak_bytes
    if peak is None or bf16 is None:
        return ""
    lacks = ", without what CUDA itself takes" if verdict.peak_source == "predicted" else ""
    return f"{gigabytes(peak)} instead of {gigabytes(bf16)} ({verdict.peak_source}{lacks})"


def flips_words(flips: int | None, prompts: int) -> str:
    """How many prompts became another picture, as an end of a sentence; "" where it is not said."""
    if flips is None:
        return ""
    if flips == 0:
        return "none became another picture"
    return f"{flips} of {prompts} became another picture"


def _of_damage(ratio: float) -> str:
    """ "half the damage", "42 % of the damage", "1.4 times the damage"."""
    for value, name in FRACTIONS:
        if abs(ratio / value - 1) <= NEAR:
            return f"{name} the damage"
    if ratio < 1:
        return f"{percent(ratio)} of the damage"
    return "twice the damage" if abs(ratio / 2 - 1) <= NEAR else f"{ratio:.2g} times the damage"


def _faster(speed: float) -> str:
    if abs(speed - 1) < SAME_SPEED:
        return "at the same speed"
    return f"{percent(speed - 1)} faster" if speed > 1 else f"{percent(1 - speed)} slower"
