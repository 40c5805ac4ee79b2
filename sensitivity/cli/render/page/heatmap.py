"""Where in the model do damage and time lie? `heat_tables`: one table a stack, block by role.

    table = heat_tables(report.layers)[0]
    table.rows[0].cells[0].layers             # the Linears of one block and role, usually one

A cell has three shades between 0 and 1: its part of the damage, the time that it can save, and its
damage for a millisecond saved; each is the square root of its part of the model's largest. Refused
Linears and those that a run never calls have a mark, and no shade.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sensitivity.cli.render.page.numbers import milliseconds, share
from sensitivity.core.fqns import indices_of, stack_of
from sensitivity.workflows.report.records import Layer

OUTSIDE = "outside the blocks"
MARKS = {"refused": "×", "never called": "∅", "fixed": "▪"}
"""What stands in the cell of a Linear that no list may quantize."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One block and role.

    Attributes:
        layers: its Linears; () where the block has no such role.
        mark: a letter or sign: the format, or why there is none.
        kind: a class of the page's styles.
        damage, saved, price: shades, 0 to 1; None where they are not known.
        text: all of it in words.
    """

    layers: tuple[Layer, ...]
    mark: str
    kind: str
    damage: float | None
    saved: float | None
    price: float | None
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One block."""

    name: str
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class HeatTable:
    """One stack of blocks: roles are columns, blocks are rows."""

    name: str
    roles: tuple[str, ...]
    rows: tuple[Row, ...]


def heat_tables(layers: Sequence[Layer]) -> tuple[HeatTable, ...]:
    """The tables, in the model's order, what is in no block first."""
    largest = _Largest.of(layers)
    stacks: dict[str, list[Layer]] = {}
    for layer in layers:
        stacks.setdefault(stack_of(layer.block) if layer.block else OUTSIDE, []).append(layer)
    names = sorted(stacks, key=lambda name: name != OUTSIDE)
    return tuple(_table(name, stacks[name], largest) for name in names)


@dataclass(frozen=True, slots=True)
class _Largest:
    """What counts as a full shade: the largest of all Linears."""

    damage: float
    saved: float
    price: float

    @classmethod
    def of(cls, layers: Sequence[Layer]) -> "_Largest":
        return cls(
            max((layer.damage or 0.0 for layer in layers), default=0.0),
            max((layer.saved_ms or 0.0 for layer in layers), default=0.0),
            max((_price(layer) or 0.0 for layer in layers), default=0.0),
        )


def _price(layer: Layer) -> float | None:
    """The part of the damage that a Linear costs for each millisecond that it saves; None where it
    saves none.
    """
    if layer.damage is None or layer.saved_ms is None or layer.saved_ms <= 0:
        return None
    return layer.damage / layer.saved_ms


def _table(name: str, layers: Sequence[Layer], largest: _Largest) -> HeatTable:
    if name == OUTSIDE:
        rows = tuple(Row(name=own.fqn, cells=(_cell((own,), largest),)) for own in layers)
        return HeatTable(name=name, roles=("Linear",), rows=rows)
    short = {own.role: own.role.removeprefix(f"{name}.") for own in layers}
    places: dict[str, dict[str, list[Layer]]] = {}
    for own in layers:
        places.setdefault(own.block, {}).setdefault(own.role, []).append(own)
    blocks = sorted(places, key=indices_of)
    return HeatTable(
        name=name,
        roles=tuple(short.values()),
        rows=tuple(
            Row(
                name=".".join(map(str, indices_of(block))),
                cells=tuple(
                    _cell(tuple(found), largest) if (found := places[block].get(role)) else None
                    for role in short
                ),
            )
            for block in blocks
        ),
    )


def _cell(layers: tuple[Layer, ...], largest: _Largest) -> Cell:
    first = layers[0]
    free = first.state == "free"
    damage = _sum(layer.damage for layer in layers)
    saved = _sum(layer.saved_ms for layer in layers)
    price = _price(first)
    mark = "" if free else MARKS.get(first.state, "")
    return Cell(
        layers=layers,
        mark=mark or first.format,
        kind=first.state.replace(" ", "-") if not free else first.format,
        damage=_shade(damage, largest.damage) if free else None,
        saved=_shade(saved, largest.saved) if free else None,
        price=_shade(price, largest.price) if free else None,
        text="\n".join(_words(layer) for layer in layers),
    )


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _shade(value: float | None, most: float) -> float | None:
    """The square root of a value's part of the largest, so that small ones are seen too."""
    if value is None or most <= 0:
        return None
    return float(min(max(value / most, 0.0), 1.0) ** 0.5)


def _words(layer: Layer) -> str:
    shape = f"M {layer.m}, K {layer.k}, N {layer.n}, {layer.calls} calls" if layer.calls else ""
    parts = [layer.fqn, f"in {layer.format}", shape]
    parts += [layer.why] if layer.why else []
    parts += [f"{share(layer.damage)} of the damage"] if layer.damage is not None else []
    parts += [f"can save {milliseconds(layer.saved_ms)}"] if layer.saved_ms is not None else []
    return "; ".join(part for part in parts if part)
