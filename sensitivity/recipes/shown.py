"""How does a recipe look at a Python prompt, in a notebook, and in pandas?

    recipe                  # Recipe(tiny-flux-nvfp4-b200: 33 of 88 Linears quantized, 1.377x ...)
    recipe.to_pandas()      # a row for each Linear: name, block, role, format, why it is refused

The functions take parts of a recipe, and `recipes.recipe` calls them. Where they take formats, an
`Assignment` with a step policy is shown with it.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from sensitivity.core.assignment import Assignment
from sensitivity.core.format_name import FormatName, quantized
from sensitivity.core.fqns import block_of, role_of
from sensitivity.core.patterns import Pattern
from sensitivity.core.record_tables import RecordTable
from sensitivity.fidelity.words import bounds_words
from sensitivity.recipes.fidelity_records import Fidelity
from sensitivity.recipes.records import Latency, Memory, ModelInfo


def speed_words(latency: Latency) -> str:
    """How fast a recipe is: "1.377x predicted for b200"."""
    return f"{latency.speedup:.3f}x {latency.origin} for {latency.target}"


def short_words(
    layers: Mapping[str, FormatName], latency: Latency, fidelity: Fidelity | None
) -> str:
    """One line: how much is quantized and when, how fast it is, and what it costs."""
    pictures = "unverified" if fidelity is None else fidelity.lpips.words
    policy = Assignment.of(layers).policy
    when = "" if policy.is_plain else f", {policy.words}"
    return (
        f"{len(quantized(layers))} of {len(layers)} Linears quantized{when},"
        f" {speed_words(latency)}, {pictures}"
    )


def layers_table(layers: Mapping[str, FormatName], refused: Mapping[str, str]) -> RecordTable:
    """A row for each Linear."""
    return RecordTable(
        columns=("fqn", "block", "role", "format", "refused"),
        rows=tuple(
            (fqn, block_of(fqn), role_of(fqn), name.value, refused.get(fqn, ""))
            for fqn, name in layers.items()
        ),
    )


def facts_table(
    title: str,
    model: ModelInfo,
    layers: Mapping[str, FormatName],
    latency: Latency,
    fidelity: Fidelity | None,
    memory: Memory,
) -> RecordTable:
    """What a recipe says of itself, a row for each fact."""
    counts = Counter(layers.values())
    formats = ", ".join(f"{counts[name]} {name}" for name in FormatName if counts[name])
    policy = Assignment.of(layers).policy
    rows = [
        ("model", f"{model.id} ({model.pipeline_class}, {', '.join(model.classes.values())})"),
        ("Linears", formats),
        *([] if policy.is_plain else [("steps", policy.words)]),
        ("speedup", _speed_words(latency)),
        *([] if fidelity is None else _pictures(fidelity)),
        ("weights", _weights_words(memory)),
    ]
    return RecordTable(title=title, columns=("", ""), rows=tuple(rows))


def patterns_table(patterns: Sequence[Pattern]) -> RecordTable:
    """What stays bf16, and why."""
    return RecordTable(
        title="What stays bf16" if patterns else "",
        columns=("pattern", "reason"),
        rows=tuple((own.pattern, own.reason) for own in patterns),
    )


def _speed_words(latency: Latency) -> str:
    interval = latency.speedup_interval90
    bounds = "" if interval is None else f" [{interval[0]:.3f}, {interval[1]:.3f}] (90 %)"
    larger = f", at {latency.stands_for} x its dimensions" if latency.stands_for > 1 else ""
    return f"{speed_words(latency)}, batch {latency.batch_size}{larger}{bounds}"


def _weights_words(memory: Memory) -> str:
    beside = f", {memory.beside_bytes / 2**20:.4g} MiB of them bf16 weights kept beside"
    return (
        f"{memory.quantized_bytes / 2**20:.4g} MiB instead of"
        f" {memory.bf16_bytes / 2**20:.4g} MiB ({memory.source})"
        f"{beside if memory.beside_bytes else ''}"
    )


def _pictures(fidelity: Fidelity) -> Iterator[tuple[str, str]]:
    lpips = fidelity.lpips
    if lpips.typical is not None:
        yield "typical LPIPS", f"{lpips.typical:.4f} {bounds_words(lpips.typical_ci95)} (95 %)"
    yield "mean LPIPS", f"{lpips.stated_mean:.4f} {bounds_words(lpips.ci95)} (95 %)"
    if lpips.flips is not None:
        count = len(lpips.per_prompt)
        yield "pictures that became another one", f"{lpips.flips.count} of {count} held-out prompts"
