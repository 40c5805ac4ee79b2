"""What does a skip file or a recipe cost on a GPU?

Shapes of a run without weights, scaled to what the model stands for, priced by a latency model.

    prices = price(resolve_spec("flux1-dev"), PriceRequest(target="b200", format=FormatName.NVFP4, skip=Path("skip.txt"), bf16_seconds=2.10))
    prices.main.estimate.speedup, prices.main.dead          # dead: patterns of the file that match nothing
    [row.name for row in prices.compared]                   # with `compare`: none, all, rule of thumb, and the files
    Pricer.of(spec, run_shapes(spec)).price("mine", formats)        # formats at hand, several on one run

The model of latency is the predicted one unless `latency` is given a function that makes another
from the table (measured ones: measuring.py).
"""

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sensitivity.core.format_name import CompileMode, FormatName
from sensitivity.core.patterns import expand, read_list
from sensitivity.errors import PatternError, RecipeMismatchError
from sensitivity.formats.registry import get_format
from sensitivity.latency import LatencyModel
from sensitivity.latency.pricer import PricedList, Pricer, _scaled, latency_model
from sensitivity.recipes.recipe import load_recipe
from sensitivity.shapes.by_hand import rule_of_thumb
from sensitivity.shapes.run import ShapeRun, run_shapes, with_options
from sensitivity.shapes.table import ShapeTable
from sensitivity.spec.overrides import RunOptions
from sensitivity.spec.study_spec import StudySpec


@dataclass(frozen=True, kw_only=True, slots=True)
class PriceRequest:
    """What is priced. Without `skip` and `recipe` everything that the format takes is quantized.

    Attributes:
        target: the GPU; None is the study's.
        format: what a skip-list's other Linears are quantized to.
        skip: file of Linears that stay bf16.
        recipe: recipe whose formats are priced.
        compare: skip files that are priced beside it, with none, all and the rule of thumb.
        bf16_seconds: measured seconds of the bf16 run.
        compile_mode: how the run is compiled.
        options: what the run is made with.
    """

    target: str | None = None
    format: FormatName = FormatName.NVFP4
    skip: Path | None = None
    recipe: Path | None = None
    compare: tuple[Path, ...] = ()
    bf16_seconds: float | None = None
    compile_mode: CompileMode = "reduce-overhead"
    options: RunOptions = field(default_factory=RunOptions)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prices:
    """The list that was asked for, the ones beside it, and the run that they are prices of."""

    main: PricedList
    compared: tuple[PricedList, ...]
    run: ShapeRun

    def to_json(self) -> dict[str, Any]:
        """The `latency --json` object; "unmatched_patterns" and "refused" (FQNs) and "notice" where
        there are any, "compare" where it was asked for.
        """
        data = self.main.estimate.to_json()
        if self.main.dead:
            data["unmatched_patterns"] = list(self.main.dead)
        if self.main.refused:
            data["refused"] = list(self.main.refused)
        if self.main.notice:
            data["notice"] = self.main.notice
        if self.compared:
            data["compare"] = [_summary(row) for row in self.compared]
        return data


MakeLatency = Callable[[ShapeRun, ShapeTable, tuple[FormatName, ...], LatencyModel], LatencyModel]
"""(run, the table that is priced, formats, the predicted model) -> the model that prices."""


def price(spec: StudySpec, request: PriceRequest, *, latency: MakeLatency | None = None) -> Prices:
    """Price a list, and those beside it.

    Raises:
        PatternError: a skip file cannot be read or is malformed, or no pattern of `skip` matches a
            Linear.
        RecipeMismatchError: the recipe is for other Linears.
        UserError: unknown target, an option that the pipeline does not have, or an anchor of
            another run.
        FormatError: the target lacks the format.
    """
    spec = with_options(spec, request.options)
    predicted = latency_model(spec, request.target, compile_mode=request.compile_mode)
    skips = [("--skip", request.skip)] if request.skip is not None else []
    files = {
        path: _read(flag, path)
        for flag, path in (*[("--compare", path) for path in request.compare], *skips)
    }
    chosen = load_recipe(request.recipe) if request.recipe is not None else None
    used = tuple(dict.fromkeys(chosen.layers.values())) if chosen is not None else (request.format,)
    for name in (*used, *([request.format] if request.compare else [])):
        predicted.linear_us(
            m=128, k=128, n=128, format=name
        )  # a target without the format refuses before the model is built
    run = run_shapes(spec)
    table = _scaled(spec, run)
    model = predicted if latency is None else latency(run, table, used, predicted)
    pricer = Pricer(run=run, table=table, latency=model, bf16_seconds=request.bf16_seconds)

    def skipping(name: str, patterns: tuple[str, ...]) -> PricedList:
        formats, dead, refused = _skipping(run.table, request.format, patterns)
        return pricer.price(name, formats, dead=dead, refused=refused)

    def listed(path: Path) -> PricedList:
        twins = sum(other.name == path.name for other in files)
        return skipping(path.name if twins == 1 else str(path), files[path])

    if chosen is not None:
        main = pricer.price(
            chosen.name, _recipe_formats(chosen.name, chosen.layers, spec, run.table)
        )
        main = dataclasses.replace(main, notice=chosen.caveat)
    elif request.skip is not None:
        main = listed(request.skip)
        if main.dead and main.dead == files[request.skip]:
            raise PatternError(_all_dead(request.skip, main.dead, run.table))
    else:
        main = skipping("all", ())
    compared: tuple[PricedList, ...] = ()
    if request.compare:
        everything = _skipping(run.table, request.format, ())[0]
        by_hand = rule_of_thumb(table, spec)
        thumb = {
            fqn: name if fqn in by_hand else FormatName.BF16 for fqn, name in everything.items()
        }
        bounds = (
            pricer.price("none", {}),
            pricer.price("all", everything),
            pricer.price("rule of thumb", thumb),
        )
        asked = [main] if chosen is not None or request.skip is not None else []
        compared = (
            *bounds,
            *asked,
            *(listed(path) for path in dict.fromkeys(request.compare) if path != request.skip),
        )
    return Prices(main=main, compared=compared, run=run)


def _summary(row: PricedList) -> dict[str, Any]:
    estimate = row.estimate.to_json()
    keys = ("bf16_s", "quantized_s", "speedup", "speedup_interval90", "memory")
    return {
        "name": row.name,
        "quantized_linears": row.quantized,
        "unmatched_patterns": list(row.dead),
    } | {key: estimate[key] for key in keys if key in estimate}


def _recipe_formats(
    name: str, layers: Mapping[str, FormatName], spec: StudySpec, table: ShapeTable
) -> dict[str, FormatName]:
    odd = sorted(set(layers) ^ set(_fqns(table)))
    if odd:
        raise RecipeMismatchError(
            f"the recipe {name!r} and {spec.name} differ in {len(odd)} Linears, the first is"
            f" {odd[0]}; pass the model that it is for"
        )
    return dict(layers)


def _skipping(
    table: ShapeTable, fmt: FormatName, patterns: tuple[str, ...]
) -> tuple[dict[str, FormatName], tuple[str, ...], tuple[str, ...]]:
    """Formats with the patterns' Linears, and those that the format refuses, in bf16; the patterns
    that match nothing; the refused that were not skipped.
    """
    fqns, refuses = _fqns(table), get_format(fmt).refusal
    matched, dead = expand(patterns, fqns, table.components)
    refused = [
        x.fqn
        for x in table.linears
        if x.fqn not in matched and refuses(k=x.k, n=x.n, dtype=getattr(torch, x.dtype))
    ]
    bf16 = {*matched, *refused}
    return {fqn: FormatName.BF16 if fqn in bf16 else fmt for fqn in fqns}, dead, tuple(refused)


def _fqns(table: ShapeTable) -> list[str]:
    return [linear.fqn for linear in table.linears] + list(table.uncalled)


def _all_dead(path: Path, patterns: tuple[str, ...], table: ShapeTable) -> str:
    fqns = _fqns(table)
    closest = difflib.get_close_matches(patterns[0], fqns, n=1)
    return (
        f"--skip {path}: none of its {len(patterns)} patterns matches a Linear of {table.model},"
        f" the first is {patterns[0]!r}; allowed are names of its Linears and globs on them, such"
        f" as {(closest or fqns)[0]}: `sensitivity profile --json -` lists the names"
    )


def _read(flag: str, path: Path) -> tuple[str, ...]:
    try:
        return read_list(path.read_text(encoding="utf-8"))
    except (
        OSError,
        ValueError,
    ) as error:  # a ValueError is text that is no UTF-8, or a path that no file system takes
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise PatternError(
            f"{flag} {path} cannot be read ({reason}); allowed is a text file with one FQN or glob"
            " a line: name one"
        ) from None
    except PatternError as error:
        raise PatternError(f"{flag} {path}: {error}") from None
