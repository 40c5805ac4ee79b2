"""What a reader wants to know above an exported list: the model, the formats, the latency, LPIPS.

    lines = [f"# {line}" for line in describe(recipe)]

Every line is printable and has no comment sign. A latency has the word predicted or measured beside
it.
"""

from collections import Counter

from sensitivity.core.format_name import FormatName
from sensitivity.core.words import printable
from sensitivity.fidelity.words import lpips_words
from sensitivity.recipes.recipe import Recipe


def describe(recipe: Recipe) -> tuple[str, ...]:
    """The lines: name and counts, the step policy if there is one, model, latency, LPIPS, and the
    recipe's notice if it has one.
    """
    steps = () if recipe.step_policy is None else (f"steps: {recipe.step_policy.words}",)
    lines = (_counts(recipe), *steps, _model(recipe), _latency(recipe), *_fidelity(recipe))
    return tuple(map(printable, lines))


def _counts(recipe: Recipe) -> str:
    counts = Counter(recipe.layers.values())
    used = ", ".join(f"{counts[name]} {name}" for name in FormatName if counts[name])
    return f"{recipe.name}: {used} of {len(recipe.layers)} Linears"


def _model(recipe: Recipe) -> str:
    model = recipe.model
    denoisers = ", ".join(f"{name} ({kind})" for name, kind in model.classes.items())
    return (
        f"model: {model.id}, revision {model.revision or 'not given'}, {model.weights} weights,"
        f" {denoisers} of {model.pipeline_class}"
    )


def _latency(recipe: Recipe) -> str:
    latency = recipe.latency
    scale = f" at {latency.stands_for} x its dimensions" if latency.stands_for > 1 else ""
    runtime = f", runtime {latency.runtime}" if latency.runtime else ""
    return (
        f"latency: {latency.bf16_s:.4g} s in bf16, {latency.quantized_s:.4g} s quantized,"
        f" {latency.speedup:.3g}x, {latency.origin} for {latency.target}{scale},"
        f" batch size {latency.batch_size}, compile mode {latency.compile_mode or 'none'}{runtime}"
    )


def _fidelity(recipe: Recipe) -> tuple[str, ...]:
    """LPIPS, where pictures were compared, and the recipe's notice."""
    if recipe.fidelity is None:
        return (recipe.caveat,)
    lpips = recipe.fidelity.lpips
    floor = "not measured" if lpips.noise_floor is None else lpips_words(lpips.noise_floor)
    distance = (
        f"LPIPS ({lpips.net}, 95% intervals): {lpips.words}, noise floor {floor},"
        f" {len(lpips.per_prompt)} pictures"
    )
    return (distance, recipe.caveat) if recipe.caveat else (distance,)
