"""What does the recipe gain and cost, and how does it stand beside other lists? `verdict_of`.

    verdict = verdict_of(recipe)
    verdict.damage.typical, verdict.against[0].ratio

Everything is read from the recipe: its numbers on the held-out prompts, which the search never saw.
What an older recipe does not say (typical damage, flips) follows from its values a prompt.
"""

import math
from collections import Counter
from collections.abc import Mapping

from sensitivity.core.pattern_cover import compress
from sensitivity.core.patterns import expand
from sensitivity.fidelity.flips import FlipRule, flipped
from sensitivity.fidelity.typical import typical, typical_interval
from sensitivity.recipes.fidelity_records import Against as Compared
from sensitivity.recipes.fidelity_records import Fidelity, Lpips
from sensitivity.recipes.recipe import Recipe
from sensitivity.recipes.records import ChoiceInfo
from sensitivity.search.front import Constraints
from sensitivity.workflows.report.compared import ComparedList, compared_lists
from sensitivity.workflows.report.verdict_records import (
    Against,
    Damage,
    Judged,
    Kept,
    Verdict,
    Worst,
)
from sensitivity.workflows.report.verdict_words import trade_words, whose

SAME = 1e-6
"""Relative difference up to which two prices are of one list."""
RULES = {
    "fastest": "the fastest list within the bound on the damage",
    "least LPIPS": "the list of least damage that is fast enough",
    "least damage": "the list of least damage that is fast enough",
    "knee": "the knee of the front, where more speed begins to cost much more damage",
}


def verdict_of(recipe: Recipe) -> Verdict:
    """The recipe in the numbers that decide."""
    latency, fidelity, choice = recipe.latency, recipe.fidelity, recipe.choice
    shapes, whole = latency.shapes, latency.whole_run
    lpips = None if fidelity is None else fidelity.lpips
    counts = Counter(name.value for name in recipe.layers.values())
    return Verdict(
        name=recipe.name,
        trial=recipe.search.trial,
        baseline=_baseline(recipe),
        speedup=latency.speedup,
        speedup_interval90=latency.speedup_interval90,
        bf16_s=latency.bf16_s,
        quantized_s=latency.quantized_s,
        origin=latency.origin,
        part="a whole run" if whole is None else "the denoiser's calls",
        shapes_speedup=None if shapes is None else shapes.speedup,
        whole_run_speedup=None if whole is None else whole.speedup,
        target=latency.target,
        stands_for=latency.stands_for,
        damage=None if lpips is None else damage_of(lpips),
        worst=None if lpips is None else _worst(lpips),
        flipped=() if lpips is None else tuple(lpips.prompts[i] for i in flips_of(lpips)),
        judges=() if fidelity is None else _judges(fidelity),
        net="" if lpips is None else lpips.net,
        objective="" if fidelity is None else fidelity.objective or "",
        noise_floor=None if lpips is None else lpips.noise_floor,
        another_seed=None if lpips is None else _flips(lpips).another_seed,
        flip_rule="" if lpips is None else _flip_words(lpips),
        quantized=len(recipe.layers) - len(recipe.skip),
        linears=len(recipe.layers),
        formats=dict(sorted(counts.items())),
        steps="" if recipe.step_policy is None else recipe.step_policy.words,
        bf16_bytes=recipe.memory.bf16_bytes,
        quantized_bytes=recipe.memory.quantized_bytes,
        peak_bytes=recipe.memory.peak_bytes,
        bf16_peak_bytes=recipe.memory.bf16_peak_bytes,
        peak_source=recipe.memory.peak_source or "",
        against=against_of(recipe),
        kept=kept_of(recipe),
        rule="" if choice is None else RULES.get(choice.rule, choice.rule),
        asked=() if choice is None else _asked(choice),
        caveat=recipe.caveat,
    )


def damage_of(lpips: Lpips) -> Damage:
    """What a recipe states of its LPIPS."""
    floor, values = lpips.noise_floor, lpips.per_prompt
    interval = lpips.typical_ci95
    if interval is None and values:
        interval = typical_interval(values, floor)
    return Damage(
        typical=typical(values, floor) if lpips.typical is None else lpips.typical,
        typical_ci95=interval,
        mean=lpips.stated_mean,
        mean_ci95=lpips.ci95,
        flips=len(flips_of(lpips)),
        prompts=len(values),
    )


def _worst(lpips: Lpips) -> Worst | None:
    """The prompt of the largest LPIPS; None where there is none."""
    if not lpips.per_prompt:
        return None
    at = max(range(len(lpips.per_prompt)), key=lambda place: lpips.per_prompt[place])
    return Worst(prompt=lpips.prompts[at], lpips=lpips.per_prompt[at])


def _judges(fidelity: Fidelity) -> tuple[Judged, ...]:
    """Every metric beside LPIPS."""
    found = [
        Judged(name=name, mean=metric.mean, unit=unit, noise_floor=metric.noise_floor)
        for name, unit, metric in (
            ("motion (how differently clips change from frame to frame)", "", fidelity.motion),
            ("detail (local energies of octaves)", "dB", fidelity.detail_db),
            ("sound (spectral distance)", "", fidelity.audio),
        )
        if metric is not None
    ]
    return (
        *found,
        *(
            Judged(
                name=name,
                mean=own.mean,
                unit=own.unit,
                noise_floor=own.noise_floor,
                higher_is_better=own.higher_is_better,
            )
            for name, own in fidelity.judges.items()
        ),
    )


def flips_of(lpips: Lpips) -> tuple[int, ...]:
    """The indices of the prompts that became another picture."""
    return flipped(lpips.per_prompt, _flips(lpips))


def flips_over(recipe: Recipe | None, lpips: Mapping[str, float]) -> tuple[str, ...]:
    """The names whose LPIPS counts as another picture, by the recipe's rule."""
    rule = FlipRule.of_another_seed(None)
    if recipe is not None and recipe.fidelity is not None:
        rule = _flips(recipe.fidelity.lpips)
    return tuple(name for name, value in lpips.items() if flipped([value], rule))


def _flips(lpips: Lpips) -> FlipRule:
    """The rule that the recipe states; an older one has that of an unmeasured seed."""
    stated = lpips.flips
    if stated is None:
        return FlipRule.of_another_seed(None)
    return FlipRule(threshold=stated.threshold, another_seed=stated.another_seed)


def _flip_words(lpips: Lpips) -> str:
    rule = _flips(lpips)
    return f"LPIPS of {rule.threshold:.2g} or more ({rule.rests_on})"


def against_of(recipe: Recipe) -> tuple[Against, ...]:
    """Lists that people write by hand, on the same held-out prompts, as far as the recipe tells."""
    stated = {} if recipe.fidelity is None else {own.name: own for own in recipe.fidelity.against}
    return tuple(
        _against(recipe, row, stated.get(row.name))
        for row in compared_lists(recipe)
        if row.name != "none" and not row.name.startswith("trial ") and not _is_own(recipe, row)
    )


def _against(recipe: Recipe, row: ComparedList, stated: Compared | None) -> Against:
    """The recipe beside one list. Their speeds are of one source: timed in turns, else priced."""
    latency = recipe.latency
    timed = next((own for own in recipe.timings if own.name == row.name), None)
    own_speed, speedup, interval = latency.speedup, row.speedup, None
    is_timed = latency.shapes is not None and timed is not None and timed.speedup is not None
    if is_timed and timed is not None:
        speedup, interval = timed.speedup, timed.speedup_interval90
    elif (ranked := latency.whole_run or latency.shapes) is not None:
        own_speed = ranked.speedup
    ratio = None if stated is None else stated.ratio
    speed_ratio = own_speed / speedup if speedup else None
    words = ""
    if stated is not None and ratio is not None and speed_ratio is not None:
        near = abs(max(ratio, 1 / ratio) - 1) < _rounding(recipe) if ratio > 0 else False
        words = trade_words(ratio, stated.ci95, speed_ratio, of=whose(row.name), near=near)
    return Against(
        name=row.name,
        speedup=speedup,
        speedup_interval90=interval,
        is_timed=is_timed,
        speed_ratio=speed_ratio,
        damage=_compared_damage(row),
        ratio=ratio,
        ratio_ci95=None if stated is None else stated.ci95,
        words=words,
    )


def _rounding(recipe: Recipe) -> float:
    """The share by which a runtime's roundings change typical LPIPS; 0 where it is not known."""
    rounding = None if recipe.fidelity is None else recipe.fidelity.lpips.native_rounding
    return 0.0 if rounding is None else rounding.change


def _is_own(recipe: Recipe, row: ComparedList) -> bool:
    """Whether a verified list is the recipe itself: no trial, and the same price and values."""
    latency = recipe.latency
    priced = latency.whole_run or latency.shapes or latency
    return (
        recipe.fidelity is not None
        and recipe.search.trial is None
        and row.speedup is not None
        and math.isclose(row.speedup, priced.speedup, rel_tol=SAME)
        and row.per_prompt == tuple(recipe.fidelity.lpips.per_prompt)
    )


def _baseline(recipe: Recipe) -> str:
    """The baseline that the recipe is; "" for a trial, or where it is not said."""
    return next((row.name for row in compared_lists(recipe) if _is_own(recipe, row)), "")


def _asked(choice: ChoiceInfo) -> tuple[str, ...]:
    """The bounds of a choice, in words."""
    fields = Constraints.__dataclass_fields__
    return Constraints(**{name: getattr(choice, name) for name in fields}).words


def _compared_damage(row: ComparedList) -> Damage:
    """The held-out damage of a verified list."""
    return Damage(
        typical=row.typical,
        typical_ci95=row.typical_ci95,
        mean=row.mean,
        mean_ci95=row.ci95,
        flips=None if row.flips is None else len(row.flips),
        prompts=len(row.per_prompt),
    )


def kept_of(recipe: Recipe) -> tuple[Kept, ...]:
    """The patterns of what stays in bf16, those of most Linears first.

    A recipe without patterns gets those that cover its list.
    """
    fqns = tuple(recipe.layers)
    patterns = recipe.patterns or compress(recipe.skip, fqns)
    found = [
        Kept(
            pattern=pattern.pattern,
            count=len(expand([pattern.pattern], fqns, tuple(recipe.model.components)).matched),
            reason=pattern.reason,
        )
        for pattern in patterns
    ]
    return tuple(sorted(found, key=lambda kept: -kept.count))
