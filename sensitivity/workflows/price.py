"""What does a skip file or a recipe cost on a GPU? `price`: files in, predicted seconds out.

    request = PriceRequest(target="b200", format=FormatName.NVFP4, skip=Path("skip.txt"))
    prices = price(resolve_spec("flux1-dev"), request)
    prices.main.estimate.speedup
    prices.main.dead                     # patterns of the file that match nothing
    prices.compared                      # with `compare`: none, all, rule of thumb, and the files

The shapes come from a run without weights, scaled to the model that the study stands for. They are
priced by the predicted model, unless `latency` makes another one of them
(`shape_table.table_pricer`).
To price formats that are at hand already, use `latency.pricer.Pricer`.
"""

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sensitivity.core.assignment import Assignment
from sensitivity.core.format_name import CompileMode, FormatName
from sensitivity.core.outside_files import NAME_LIST, read_text, reason
from sensitivity.core.patterns import expand, read_list
from sensitivity.core.typed_fields import coerce_fields
from sensitivity.core.words import printable
from sensitivity.errors import PatternError
from sensitivity.formats.registry import get_format
from sensitivity.latency.pricer import (
    MakeLatency,
    PricedList,
    Pricer,
    at_priced_scale,
    latency_model,
)
from sensitivity.latency.runtimes import Runtime, choose_runtime
from sensitivity.latency.step_mix import priced_formats
from sensitivity.recipes.recipe import Recipe, load_recipe
from sensitivity.shapes.by_hand import rule_of_thumb
from sensitivity.shapes.shape_run import ShapeRun
from sensitivity.shapes.table import ShapeTable
from sensitivity.spec.overrides import RunOptions
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.model_linears import check_same_linears


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
        compile_mode: how the run is compiled; None is what `runtime` has.
        runtime: the way of running that is priced; None is what compiles blocks in `compile_mode`.
        options: changes to the study's run.
    """

    target: str | None = None
    format: FormatName = FormatName.NVFP4
    skip: Path | None = None
    recipe: Path | None = None
    compare: tuple[Path, ...] = ()
    bf16_seconds: float | None = None
    compile_mode: CompileMode | None = None
    runtime: str | None = None
    options: RunOptions = field(default_factory=RunOptions)

    def __post_init__(self) -> None:
        """Raise UserError for a value of another type, or an unknown runtime."""
        coerce_fields(self)
        choose_runtime(self.runtime, self.compile_mode)

    @property
    def way(self) -> Runtime:
        """The runtime that is priced."""
        return choose_runtime(self.runtime, self.compile_mode)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prices:
    """Prices of lists on one run.

    Attributes:
        main: the list that was asked for.
        compared: those beside it.
        run: the run that they are prices of.
        spec: the study of that run, with the request's options.
    """

    main: PricedList
    compared: tuple[PricedList, ...]
    run: ShapeRun
    spec: StudySpec

    def to_json(self) -> dict[str, Any]:
        """The JSON object of `sensitivity latency`.

        "unmatched_patterns", "refused" ({FQN: reason}), "notice" and "step_policy" are left out
        where there are none, "compare" where nothing was compared.
        """
        data = self.main.estimate.to_json()
        policy = Assignment.of(self.main.formats).policy
        if not policy.is_plain:
            data["step_policy"] = dataclasses.asdict(policy)
        if self.main.dead:
            data["unmatched_patterns"] = list(self.main.dead)
        if self.main.refused:
            data["refused"] = dict(self.main.refused)
        if self.main.notice:
            data["notice"] = self.main.notice
        if self.compared:
            data["compare"] = [_summary(row) for row in self.compared]
        return data


def price(spec: StudySpec, request: PriceRequest, *, latency: MakeLatency | None = None) -> Prices:
    """Price a list, and those beside it.

    Args:
        spec: the study.
        request: what is priced.
        latency: makes the model that prices; by default the predicted one prices.

    Raises:
        PatternError: a skip file cannot be read or is malformed, or no pattern of `skip` matches a
            Linear.
        RecipeMismatchError: the recipe is for other Linears.
        UserError: unknown target, an option that the pipeline does not have, or a `bf16_seconds`
            that is not of this run.
        FormatError: the target lacks the format.
    """
    from sensitivity.shapes.run import run_shapes, with_options  # a run needs diffusers' models

    spec = with_options(spec, request.options)
    predicted = latency_model(spec, request.target, runtime=request.way)
    asked = _Asked.read(request)
    for name in (*asked.formats, *([request.format] if request.compare else [])):
        predicted.check_format(name)
    run = run_shapes(spec)
    table = at_priced_scale(run.table, spec)
    model = predicted if latency is None else latency(run, table, asked.formats, predicted)
    pricer = Pricer(run=run, table=table, latency=model, bf16_seconds=request.bf16_seconds)
    lists = _Lists(pricer=pricer, format=request.format, files=asked.files)
    main = _main(lists, asked, request)
    if not request.compare:
        return Prices(main=main, compared=(), run=run, spec=spec)
    bounds = lists.bounds(rule_of_thumb(table, spec))
    named = () if asked.recipe is None and request.skip is None else (main,)
    files = tuple(
        lists.file(path) for path in dict.fromkeys(request.compare) if path != request.skip
    )
    compared = (*bounds, *named, *files)
    return Prices(main=main, compared=compared, run=run, spec=spec)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    """What the request's files say.

    Attributes:
        files: {skip file: its patterns}.
        recipe: the recipe that is priced, if any.
        formats: the formats of the list that was asked for.
    """

    files: Mapping[Path, tuple[str, ...]]
    recipe: Recipe | None
    formats: tuple[FormatName, ...]

    @classmethod
    def read(cls, request: PriceRequest) -> "_Asked":
        """Read all files. Raises PatternError or RecipeError for one that cannot be read."""
        named = [("compare", path) for path in request.compare]
        named += [("skip", request.skip)] if request.skip is not None else []
        recipe = load_recipe(request.recipe) if request.recipe is not None else None
        return cls(
            files={path: _read(field_name, path) for field_name, path in named},
            recipe=recipe,
            formats=((request.format,) if recipe is None else priced_formats(recipe.assignment)),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Lists:
    """Prices skip files on one run. What a file does not skip becomes `format`."""

    pricer: Pricer
    format: FormatName
    files: Mapping[Path, tuple[str, ...]]

    def file(self, path: Path) -> PricedList:
        """A file, called by its name; by its path if two files have that name."""
        twins = sum(other.name == path.name for other in self.files)
        return self.patterns(path.name if twins == 1 else str(path), self.files[path])

    def patterns(self, name: str, patterns: tuple[str, ...]) -> PricedList:
        """A list of patterns."""
        formats, dead, refused = _skipping(self.pricer.run.table, self.format, patterns)
        return self.pricer.price(name, formats, dead=dead, refused=refused)

    def bounds(self, by_hand: set[str]) -> tuple[PricedList, ...]:
        """Nothing quantized, everything, and what the rule of thumb quantizes (`by_hand`)."""
        everything = _skipping(self.pricer.run.table, self.format, ())[0]
        thumb = {
            fqn: name if fqn in by_hand else FormatName.BF16 for fqn, name in everything.items()
        }
        return (
            self.pricer.price("none", {}),
            self.pricer.price("all", everything),
            self.pricer.price("rule of thumb", thumb),
        )


def _main(lists: _Lists, asked: _Asked, request: PriceRequest) -> PricedList:
    """The list that was asked for: the recipe, else the skip file, else everything."""
    if asked.recipe is not None:
        check_same_linears(asked.recipe, lists.pricer.run.table)
        priced = lists.pricer.price(asked.recipe.name, asked.recipe.assignment)
        notes = [asked.recipe.caveat, _stopped(priced, lists.pricer.latency.target)]
        return dataclasses.replace(priced, notice="; ".join(filter(None, notes)))
    if request.skip is None:
        return lists.patterns("all", ())
    main = lists.file(request.skip)
    if main.dead and main.dead == asked.files[request.skip]:
        raise PatternError(_all_dead(request.skip, main.dead, lists.pricer.run.table))
    return main


def _stopped(recipe: PricedList, target: str) -> str:
    """What a recipe has that the target cannot run, in words; "" if it runs."""
    if not recipe.refused:
        return ""
    fqn, reason = next(iter(recipe.refused.items()))
    return (
        f"{len(recipe.refused)} of its Linears cannot run on {target} and are priced in bf16"
        f" ({fqn}: {reason})"
    )


def _summary(row: PricedList) -> dict[str, Any]:
    """One entry of "compare" in the JSON."""
    estimate = row.estimate.to_json()
    keys = ("bf16_s", "quantized_s", "speedup", "speedup_interval90", "memory")
    return {
        "name": row.name,
        "quantized_linears": row.quantized,
        "unmatched_patterns": list(row.dead),
    } | {key: estimate[key] for key in keys if key in estimate}


def _skipping(
    table: ShapeTable, fmt: FormatName, patterns: tuple[str, ...]
) -> tuple[dict[str, FormatName], tuple[str, ...], dict[str, str]]:
    """What a skip-list does to a run's Linears.

    Returns:
        {FQN: format}, with what the patterns match or the format refuses in bf16; the patterns that
        match nothing; and {FQN: reason} of what the format refuses and no pattern matches.
    """
    fqns, refuses = table.fqns, get_format(fmt).refusal
    matched, dead = expand(patterns, fqns, table.components)
    refused = {
        x.fqn: reason
        for x in table.linears
        if x.fqn not in matched and (reason := refuses(k=x.k, n=x.n, dtype=getattr(torch, x.dtype)))
    }
    bf16 = {*matched, *refused}
    return {fqn: FormatName.BF16 if fqn in bf16 else fmt for fqn in fqns}, dead, refused


def _all_dead(path: Path, patterns: tuple[str, ...], table: ShapeTable) -> str:
    fqns = table.fqns
    closest = difflib.get_close_matches(patterns[0], fqns, n=1)
    return (
        f"`skip` {path}: none of its {len(patterns)} patterns matches a Linear of {table.model},"
        f" the first is {patterns[0]!r}; expected names of its Linears or globs on them, such as"
        f" {(closest or fqns)[0]}: `sensitivity profile` lists the names"
    )


def _read(field_name: str, path: Path) -> tuple[str, ...]:
    """The patterns of a skip file. Raises PatternError if it cannot be read or is malformed."""
    try:
        return read_list(read_text(path, NAME_LIST))
    except (OSError, ValueError) as error:
        raise PatternError(
            f"`{field_name}` {path} cannot be read ({printable(reason(error))}); expected a text"
            " file with one FQN or glob a line: name one"
        ) from None
    except PatternError as error:
        raise PatternError(f"`{field_name}` {path}: {error}") from None
