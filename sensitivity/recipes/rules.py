"""Which recipes are refused? The rules between the fields of a recipe, and the words for a breach.

Each function raises ValueError with the value found, what was expected and the next step. `Recipe`
calls them when it is made, so a recipe that exists keeps to all of them:

- every layer has the name of a module; with several components, that of its component first;
- `skip` has exactly the bf16 layers;
- what a kernel refused is bf16;
- a recipe with a step policy quantizes something;
- every pattern matches bf16 layers only, and at least one;
- a recipe without pictures says so in `notice`, and is not verified.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from pydantic import ValidationError

from sensitivity.core.format_name import FormatName, skipped
from sensitivity.core.fqns import by_component, is_in
from sensitivity.core.patterns import Pattern, is_fqn, match
from sensitivity.core.words import counted
from sensitivity.errors import PatternError

MAX_MATCHING = 250_000_000
"""Characters of patterns and layers that are compared, every pattern with every layer. This many
take half a second at most; 1,400 layers and 300 patterns make 35 million.
"""


def check_layers(layers: Collection[str]) -> None:
    """Raise ValueError unless there are layers, and each has the name of a module."""
    if not layers:
        raise ValueError(
            "found no layers; expected every Linear of the component: export the recipe again"
        )
    for fqn in layers:
        if not is_fqn(fqn):
            raise ValueError(
                f"found the layer {fqn[:80]!r}; expected the name of a module (letters, digits,"
                " '_', '-', '.'): export the recipe again"
            )


def check_components(layers: Mapping[str, FormatName], components: Collection[str]) -> None:
    """Raise ValueError unless each layer is in one of several components, and none is empty."""
    if not components:
        return
    names = ", ".join(components)
    stray = [fqn for fqn in layers if not any(is_in(fqn, name) for name in components)]
    empty = [name for name, own in by_component(layers, components).items() if not own]
    if stray or empty:
        other = f"the layers {counted(stray)}, which are in none of them"
        what = other if stray else f"no layer of {', '.join(empty)}"
        raise ValueError(
            f"found components {names} and {what}; expected layers that begin with a component's"
            " name and a dot: export the recipe again"
        )


def check_skip(skip: object, layers: Mapping[str, FormatName]) -> None:
    """Raise ValueError unless `skip` has each bf16 layer once, and nothing else."""
    if not isinstance(skip, list | tuple) or not all(isinstance(fqn, str) for fqn in skip):
        raise ValueError(
            f"found the skip list {repr(skip)[:80]}; expected a list of layers: export the recipe"
            " again"
        )
    bf16 = set(skipped(layers))
    if set(skip) != bf16 or len(skip) != len(bf16):
        wrong = sorted(bf16.symmetric_difference(skip) or (Counter(skip) - Counter(bf16)))
        raise ValueError(
            f"found a skip list that differs from the bf16 layers in {counted(wrong)}; expected"
            " each bf16 layer once: list them so"
        )


def check_refused(refused: Collection[str], layers: Mapping[str, FormatName]) -> None:
    """Raise ValueError unless every Linear that a kernel refused is a bf16 layer."""
    wrong = [fqn for fqn in refused if fqn not in layers or layers[fqn].is_quantized]
    if wrong:
        raise ValueError(
            f"found the refused layers {counted(wrong)}, which are quantized or in no layer;"
            " expected bf16 layers: export the recipe again"
        )


def check_policy(layers: Mapping[str, FormatName], *, has_policy: bool) -> None:
    """Raise ValueError if there is a step policy and no layer is quantized, so that it says
    nothing.
    """
    if has_policy and not any(name.is_quantized for name in layers.values()):
        raise ValueError(
            f"found a step policy and {len(layers)} layers in bf16; expected a quantized layer,"
            " since a policy changes only those: write step_policy null"
        )


def check_patterns(patterns: Sequence[Pattern], layers: Mapping[str, FormatName]) -> None:
    """Raise ValueError unless every pattern matches bf16 layers only, and at least one."""
    characters = sum(map(len, layers)) * len(patterns)
    characters += len(layers) * sum(len(entry.pattern) for entry in patterns)
    if characters > MAX_MATCHING:
        raise ValueError(
            f"found {len(patterns)} patterns for {len(layers)} layers, {characters} characters to"
            f" compare; expected at most {MAX_MATCHING}: drop patterns"
        )
    for entry in patterns:
        try:
            hits = match(entry.pattern, layers)
        except PatternError as error:
            raise ValueError(str(error)) from None
        wrong = [fqn for fqn in hits if layers[fqn].is_quantized]
        if wrong or not hits:
            what = f"matches quantized layers: {counted(wrong)}" if wrong else "matches no layer"
            raise ValueError(
                f"found the pattern {entry.pattern!r}, which {what}; expected patterns of bf16"
                " layers: correct or drop it"
            )


def check_evidence(*, has_fidelity: bool, is_verified: bool, notice: str | None) -> None:
    """Raise ValueError if no picture was compared and the recipe does not say so."""
    if has_fidelity:
        return
    if notice is None or not notice.strip():
        raise ValueError(
            "found fidelity null without a notice; expected a notice that says why no picture was"
            " compared: write it"
        )
    if is_verified:
        raise ValueError(
            "found fidelity null and verified filled; expected pictures where something is"
            " verified: write verified null"
        )


def wrong_fields(error: ValidationError) -> str:
    """How many fields are wrong, and the first five with what was found in them."""
    found = error.errors(include_url=False, include_context=False)
    lines = []
    for item in found[:5]:
        has_value = item["type"] not in ("missing", "value_error")
        value = f" (found {repr(item['input'])[:80]})" if has_value else ""
        keys = (ascii(k[:80])[1:-1] if isinstance(k, str) else str(k) for k in item["loc"])
        reason = item["msg"].removeprefix("Value error, ")
        lines.append(f"{'.'.join(keys) or 'recipe'}: {reason}{value}")
    return (
        f"found {len(found)} wrong field(s), first {'; '.join(lines)}; expected fields as in"
        " recipe.schema.json: export the recipe again"
    )
