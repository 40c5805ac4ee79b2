"""What does the recipe gain and cost, and how does it stand beside other lists? `verdict_of`.

    verdict = verdict_of(recipe)
    verdict.damage.typical, verdict.against[0].ratio

Everything is read from the recipe: its numbers on the held-out prompts, which the search never saw.
What an older recipe does not say (typical damage, flips) follows from its values a prompt.
"""

from collections import Counter
from collections.abc import Mapping

from sensitivity.core.pattern_cover import compress
from sensitivity.core.patterns import expand
from sensitivity.fidelity.flips import FlipRule, flipped
from sensitivity.fidelity.typical import typical, typical_interval
from sensitivity.recipes.fidelity_records import Fidelity, Lpips
from sensitivity.recipes.recipe import Recipe
from sensitivity.workflows.report.compared import ComparedList, compared_lists
from sensitivity.workflows.report.verdict_records import (
    Against,
    Damage,
    Judged,
    Kept,
    Verdict,
    Worst,
)

RULES = {
    "fastest": "the fastest list within the bound on the damage",
    "least LPIPS": "the list of least damage that is fast enough",
    "least damage": "the list of least damage that is fast enough",
    "knee": "the knee of the front, where more speed begins to cost much more damage",
}


def verdict_of(recipe: Recipe) -> Verdict:
    """The recipe in the numbers that decide."""
    latency, fidelity = recipe.latency, recipe.fidelity
    lpips = None if fidelity is None else fidelity.lpips
    counts = Counter(name.value for name in recipe.layers.values())
    return Verdict(
        name=recipe.name,
        trial=recipe.search.trial,
        speedup=latency.speedup,
        speedup_interval90=latency.speedup_interval90,
        bf16_s=latency.bf16_s,
        quantized_s=latency.quantized_s,
        origin=latency.origin,
        target=latency.target,
        damage=None if lpips is None else damage_of(lpips),
        worst=None if lpips is None else _worst(lpips),
        judges=() if fidelity is None else _judges(fidelity),
        net="" if lpips is None else lpips.net,
        objective="" if fidelity is None else fidelity.objective or "",
        noise_floor=None if lpips is None else lpips.noise_floor,
        another_seed=None if lpips is None else _flips(lpips).another_seed,
        flip_rule="" if lpips is None else _flip_words(lpips),
        quantized=len(recipe.layers) - len(recipe.skip),
        linears=len(recipe.layers),
        formats=dict(sorted(counts.items())),
        bf16_bytes=recipe.memory.bf16_bytes,
        quantized_bytes=recipe.memory.quantized_bytes,
        against=against_of(recipe),
        kept=kept_of(recipe),
        rule="" if recipe.choice is None else RULES.get(recipe.choice.rule, recipe.choice.rule),
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
        Against(
            name=row.name,
            speedup=row.speedup,
            damage=_compared_damage(row),
            ratio=None if (own := stated.get(row.name)) is None else own.ratio,
            ratio_ci95=None if own is None else own.ci95,
        )
        for row in compared_lists(recipe)
        if row.name != "none" and not row.name.startswith("trial ")
    )


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
