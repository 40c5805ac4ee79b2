"""How long do several skip-lists of one denoiser take, run in turns in one process? `interleave`.

Method. Each list is a copy of the bf16 denoiser that shares its weights (`models.shared_copies`)
and is quantized natively. All are compiled and warmed up first. Then they are timed in rounds: each
round runs every list once, in an order that is shuffled anew from a fixed seed. So a clock that
drifts, or another process on the host, hits all lists alike, and the ratio to bf16 is taken round
by round (`paired`). Every repetition is kept.

    found = interleave(
        pipe.transformer,
        {"none": {}, "all": formats},
        lambda copy: [Unit(work=partial(copy, **inputs), calls=28)],
        Conditions(runtime=get_runtime("torchao-graphs"), device="cuda"),
    )
    found["all"].ratio.value

Memory. Lists share bf16 weights, and those that they quantize alike. Lists that fit on the device
beside each other are one group; others follow in further groups. So do lists that run out of memory
beside others. Every group has bf16, and a ratio is one of a group.

Compiling. Each list is compiled for itself, and torch's recompile limit counts for each by itself,
as where it is served alone (`models.shared_copies`).

Failures. A list that does not run (a kernel refuses a shape, memory ran out, torch's recompile
limit) is left out with the reason, and the others go on. Without bf16 there is no ratio, so its
failure is raised.

What it does not do: load models, make inputs, or emulate.
"""

import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import torch
from torch import nn

from sensitivity.core.devices import free_bytes, free_memory, release_memory
from sensitivity.core.format_name import FormatName, quantized
from sensitivity.core.words import first_line
from sensitivity.formats.native import quantize_native
from sensitivity.formats.registry import get_format
from sensitivity.latency.runtimes import Runtime
from sensitivity.latency.timing.end_to_end import explained, is_out_of_memory, measuring
from sensitivity.latency.timing.refused_linears import naming_refusals
from sensitivity.latency.timing.run_timing import RunTiming, UnitTimes, warm_unit
from sensitivity.latency.timing.running import running
from sensitivity.latency.timing.stopwatch import device_of
from sensitivity.latency.timing.tensors import stored_bytes
from sensitivity.latency.timing.timed_lists import FEWEST_ROUNDS, Conditions, TimedList, Unit
from sensitivity.models.compiled_regions import (
    check_recompile_limit,
    count_block_patterns,
    default_recompile_limit,
    regions_of,
)
from sensitivity.models.denoisers import parts_of
from sensitivity.models.shared_copies import shared_copy, shares_code

BF16 = "none"
"""The name of the list that quantizes nothing."""
_Found = TypeVar("_Found")
_Weight = tuple[str, FormatName]
"""A quantized weight: (FQN, format)."""
SPARE = 0.9
"""The part of the memory that lists may take; allocators and libraries need some."""


def interleave(
    denoiser: nn.Module,
    lists: Mapping[str, Mapping[str, FormatName]],
    units_of: Callable[[nn.Module], Sequence[Unit]],
    how: Conditions,
) -> dict[str, TimedList]:
    """Time lists in turns.

    Args:
        denoiser: In bf16, on the device: one, or several that are joined. It stays as it is.
        lists: {name: {FQN: format}}; Linears left out are bf16. bf16 itself is timed as "none",
            whether or not it is among them.
        units_of: The calls of a copy, which together are a run.
        how: The conditions.

    Returns:
        {name: list}, "none" first, then in the order of `lists`.

    Raises:
        MeasurementError: bf16 failed, or ran out of memory.
        UserError: bf16 alone needs more graphs than the recompile limit.
    """
    where, wanted = device_of(how.device), {name: quantized(own) for name, own in lists.items()}
    wanted.pop(BF16, None)
    free_memory(where)
    found: dict[str, TimedList] = {}
    waiting = deque(_groups(denoiser, wanted, how) or [()])
    limit = how.recompile_limit or default_recompile_limit()
    together = limit * (len(wanted) + 1) if shares_code(denoiser) else limit
    number = 0
    with measuring(where, together):
        while waiting:
            group = {name: wanted[name] for name in waiting.popleft()}
            timed = _Group(denoiser=denoiser, where=where, how=how, limit=limit, number=number)
            try:
                rows = timed.time(group, units_of)
            except Exception as error:
                if number == 0:
                    raise
                rows = timed.all_failed(group, _reason(error, limit))
            for name, row in rows.items():
                found.setdefault(name, row)  # "none" is that of the first group
            if timed.postponed:
                names = ", ".join(timed.postponed)
                how.say(f"{names}: no room beside other lists, timed after them")
                waiting.append(tuple(timed.postponed))
            release_memory(where)
            number += 1
    return {name: found[name] for name in (BF16, *wanted)}


def _compiled(denoiser: nn.Module, runtime: Runtime) -> str:
    """What a runtime compiles of a denoiser, in words."""
    if runtime.compiled == "nothing":
        return "nothing"
    if runtime.compiled == "blocks":
        return regions_of(denoiser)[0]
    return ", ".join(f"the whole {type(part).__name__}" for part in parts_of(denoiser).values())


def _reason(error: Exception, limit: int) -> str:
    return first_line(explained(error, limit), most=300)


def _groups(
    denoiser: nn.Module, lists: Mapping[str, Mapping[str, FormatName]], how: Conditions
) -> list[tuple[str, ...]]:
    """Lists that fit beside each other on the device."""
    shapes = {
        fqn: child.weight.shape  # (N, K)
        for fqn, child in denoiser.named_modules()
        if isinstance(child, nn.Linear)
    }
    needed = {
        name: {
            (fqn, fmt): get_format(fmt).weight_bytes(k=shapes[fqn][1], n=shapes[fqn][0])
            for fqn, fmt in formats.items()
            if fqn in shapes
        }
        for name, formats in lists.items()
    }
    free = free_bytes(how.device)
    room = None if free is None else int(free * SPARE) - how.activation_bytes
    groups = plan_groups(needed, room)
    if len(groups) > 1:
        how.say(
            f"{len(lists)} lists do not fit beside each other in the"
            f" {max(0, room or 0) / 1e9:.1f} GB that are free: timed in {len(groups)} groups, each"
            " with bf16"
        )
    return groups


def plan_groups(
    needed: Mapping[str, Mapping[_Weight, int]], room: int | None
) -> list[tuple[str, ...]]:
    """Divide lists into as few groups as their order allows, each within `room`.

    A list that does not fit by itself is a group of its own: the device will say.

    Args:
        needed: {list: {weight: bytes}}; lists of a group share equal weights.
        room: Bytes that a group may take; None sets no bound.
    """
    groups: list[tuple[str, ...]] = []
    held: dict[_Weight, int] = {}
    for name, weights in needed.items():
        together = held | dict(weights)
        if groups and (room is None or sum(together.values()) <= room):
            groups[-1], held = (*groups[-1], name), together
        else:
            groups.append((name,))
            held = dict(weights)
    return groups


@dataclass(frozen=True, kw_only=True)
class _Ready:
    """A list that is compiled and warm."""

    units: Sequence[Unit]
    times: Sequence[UnitTimes]
    weight_bytes: int
    foreign_bytes: int
    compiled: str

    @property
    def run_s(self) -> float:
        """Seconds of a run of each unit once, as it was warm."""
        return sum(times.seconds[-1] for times in self.times)


@dataclass(kw_only=True)
class _Group:
    """Times the lists of one group.

    Attributes:
        postponed: lists that ran out of memory beside others.
    """

    denoiser: nn.Module
    where: torch.device
    how: Conditions
    limit: int
    number: int
    postponed: list[str] = field(default_factory=list)
    _failed: dict[str, str] = field(default_factory=dict)
    _copies: dict[str, nn.Module] = field(default_factory=dict)
    _weights: dict[str, dict[_Weight, nn.Parameter]] = field(default_factory=dict)

    def time(
        self,
        lists: Mapping[str, Mapping[str, FormatName]],
        units_of: Callable[[nn.Module], Sequence[Unit]],
    ) -> dict[str, TimedList]:
        """{name: timings} of bf16 and of all lists that were not postponed."""
        with ExitStack() as stack:
            stack.callback(self._copies.clear)
            stack.callback(self._weights.clear)
            ready: dict[str, _Ready] = {}
            every: dict[str, Mapping[str, FormatName]] = {BF16: {}, **lists}
            for name, formats in every.items():
                work = partial(self._ready, stack, name, formats, units_of)
                if (made := self._try(name, work)) is not None:
                    ready[name] = made
            rounds = self._rounds(ready)
            self.how.say(
                f"timing {len(ready)} lists in turns, {rounds} rounds of"
                f" {sum(each.run_s for each in ready.values()):.1f} s"
            )
            seconds = self._time_rounds(ready, rounds)
            timings = {name: self._timings(ready[name], rows) for name, rows in seconds.items()}
        none = timings[BF16]
        return {
            name: TimedList(name=name, timings=own, bf16=none, group=self.number)
            for name, own in timings.items()
        } | self._failures()

    def all_failed(self, lists: Iterable[str], why: str) -> dict[str, TimedList]:
        """{name: failure} of lists that have none of their own and were not postponed."""
        self._failed = {name: why for name in lists if name not in self.postponed} | self._failed
        return self._failures()

    def _failures(self) -> dict[str, TimedList]:
        return {
            name: TimedList(name=name, group=self.number, failure=why)
            for name, why in self._failed.items()
        }

    def _try(self, name: str, work: Callable[[], _Found]) -> _Found | None:
        """What `work` gives; None where it failed, which is noted.

        Raises what bf16 raises.
        """
        try:
            return work()
        except Exception as error:
            if name == BF16:
                raise
            if is_out_of_memory(error) and len(self._copies) > 2:  # bf16, this one, and others
                self.postponed.append(name)
            else:
                self._failed[name] = _reason(error, self.limit)
                self.how.say(f"{name} does not run: {self._failed[name]}")
        self._copies.pop(name, None)
        self._weights.pop(name, None)
        free_memory(self.where)
        return None

    def _ready(
        self,
        stack: ExitStack,
        name: str,
        formats: Mapping[str, FormatName],
        units_of: Callable[[nn.Module], Sequence[Unit]],
    ) -> _Ready:
        """Copy, quantize, compile and warm up."""
        how = self.how
        how.say(f"compiling {name}")
        if how.runtime.compiled == "blocks":
            check_recompile_limit(count_block_patterns(self.denoiser, formats), self.limit)
        copy = self._copies[name] = shared_copy(self.denoiser)
        self._quantize(name, copy, formats)
        with ExitStack() as own:
            own.enter_context(running(copy, how.runtime, backend=how.backend))
            units = units_of(copy)
            with naming_refusals(copy, [unit.work for unit in units], formats):
                times = [warm_unit(unit.work, how.warmups, self.where) for unit in units]
            stack.push(own.pop_all())
        together = nn.ModuleList([self.denoiser, *self._copies.values()])
        held = stored_bytes(copy)
        return _Ready(
            units=units,
            times=times,
            weight_bytes=held,
            foreign_bytes=stored_bytes(together) - held,
            compiled=_compiled(copy, how.runtime),
        )

    def _quantize(self, name: str, copy: nn.Module, formats: Mapping[str, FormatName]) -> None:
        """Quantize a copy; weights that another list has quantized alike are shared with it."""
        known = {key: weight for own in self._weights.values() for key, weight in own.items()}
        shared = {key: known[key] for key in formats.items() if key in known}
        for (fqn, _), weight in shared.items():
            linear = copy.get_submodule(fqn)
            linear.weight = weight
        quantize_native(copy, {f: fmt for f, fmt in formats.items() if (f, fmt) not in shared})
        self._weights[name] = {
            (fqn, fmt): copy.get_parameter(f"{fqn}.weight") for fqn, fmt in formats.items()
        }

    def _rounds(self, ready: Mapping[str, _Ready]) -> int:
        how, round_s = self.how, sum(each.run_s for each in ready.values())
        if how.most_s is None:
            return how.rounds
        return min(how.rounds, max(FEWEST_ROUNDS, int(how.most_s / max(round_s, 1e-9))))

    def _time_rounds(
        self, ready: Mapping[str, _Ready], rounds: int
    ) -> dict[str, list[tuple[float, ...]]]:
        """{name: for each round the seconds of each unit}."""
        draw = random.Random(self.how.seed + self.number)
        seconds: dict[str, list[tuple[float, ...]]] = {name: [] for name in ready}
        for _ in range(rounds):
            order = list(seconds)
            draw.shuffle(order)
            for name in order:
                row = self._try(name, partial(self._round, ready[name]))
                if row is None:
                    del seconds[name]
                else:
                    seconds[name].append(row)
        return seconds

    def _round(self, own: _Ready) -> tuple[float, ...]:
        return tuple(
            self.how.clock(unit, times.seconds[-1], self.where)
            for unit, times in zip(own.units, own.times, strict=True)
        )

    def _timings(self, own: _Ready, rows: Iterable[tuple[float, ...]]) -> tuple[RunTiming, ...]:
        """The records of a list's units. Its memory is what it would hold by itself: the weights of
        the other lists are taken off.
        """
        return tuple(
            RunTiming(
                seconds=seconds,
                calls=unit.calls,
                compile_s=times.compile_s,
                peak_memory_bytes=max(0, times.peak_memory_bytes - own.foreign_bytes),
                reserved_bytes=max(0, times.reserved_bytes - own.foreign_bytes),
                weight_bytes=own.weight_bytes,
                compiled=own.compiled,
                compile_mode=self.how.runtime.compile_mode,
                runtime=self.how.runtime.name,
            )
            for unit, times, seconds in zip(
                own.units, own.times, zip(*rows, strict=True), strict=True
            )
        )
