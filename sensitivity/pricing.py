"""What does a skip file or a recipe cost on a GPU? Shapes of a real run, scaled to what the model stands for, priced with the formats that the file gives.

estimate, dead = price(spec, device="cpu", target="b200", fmt=FormatName.NVFP4, skip=Path("skip.txt"), recipe=None, bf16_seconds=None)
"""

from pathlib import Path

import torch

from sensitivity.errors import PatternError, RecipeMismatchError
from sensitivity.formats import get_format
from sensitivity.latency import LatencyEstimate, ShapeScale, stand_for
from sensitivity.patterns import expand, read_list
from sensitivity.profiler import ShapeTable
from sensitivity.recipe import load_recipe
from sensitivity.spec import FormatName, StudySpec
from sensitivity.workflow import latency_model, profile_study


def price(
    spec: StudySpec, *, device: str, target: str | None, fmt: FormatName, skip: Path | None, recipe: Path | None, bf16_seconds: float | None
) -> tuple[LatencyEstimate, tuple[str, ...]]:
    """The estimate, and the patterns of the skip file that match nothing. Without a file everything that the format takes is quantized.

    Raises:
        PatternError: the skip file cannot be read or is malformed.
        RecipeMismatchError: the recipe is for other Linears.
        UserError: unknown target, or an anchor shorter than the Linears.
    """
    latency = latency_model(spec, target)
    dead: tuple[str, ...] = ()
    patterns = _read(skip) if skip is not None else ()
    chosen = load_recipe(recipe) if recipe is not None else None
    table = profile_study(spec, device=device)
    fqns = [linear.fqn for linear in table.linears] + list(table.uncalled)
    if chosen is not None:
        if set(chosen.layers) != set(fqns):
            odd = sorted(set(chosen.layers) ^ set(fqns))
            raise RecipeMismatchError(
                f"the recipe {chosen.name!r} and {spec.name} differ in {len(odd)} Linears, the first is {odd[0]}; pass the model that it is for"
            )
        formats = dict(chosen.layers)
    else:
        matched, dead = expand(patterns, fqns)
        formats = {fqn: FormatName.BF16 if fqn in matched else fmt for fqn in fqns} | _refused(table, fmt)
    priced = stand_for(table, ShapeScale(factor=spec.pricing.stands_for)) if spec.pricing.stands_for > 1 else table
    return latency.estimate(priced, formats, bf16_seconds=bf16_seconds), dead


def _refused(table: ShapeTable, fmt: FormatName) -> dict[str, FormatName]:
    """Linears that the format does not take, as bf16."""
    refuses = get_format(fmt).refusal
    return {x.fqn: FormatName.BF16 for x in table.linears if refuses(k=x.k, n=x.n, dtype=getattr(torch, x.dtype))}


def _read(path: Path) -> tuple[str, ...]:
    try:
        return read_list(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise PatternError(f"--skip {path} cannot be read ({error}); allowed is a text file with one FQN or glob a line") from None
