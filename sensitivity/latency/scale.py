"""At which size is a small model priced? `stand_for` scales its shape table to the large model that
it stands for.

A study such as tiny-flux runs on a laptop, and the GPU of a data centre would be idle with it. So
its table is scaled before it is priced: token rows, K and N are multiplied by one factor. Rows of
the batch axis keep their M, since the batch size does not grow with the model.

The factor is written into the table's settings, and every estimate that is made from the table
repeats it.

    scaled = stand_for(table, ShapeScale(factor=16))
    scale_of(scaled)                                      # ShapeScale(factor=16)
"""

import dataclasses
from collections import Counter
from dataclasses import dataclass

from sensitivity.errors import UserError
from sensitivity.shapes.census import RunCounts
from sensitivity.shapes.table import LinearProfile, ShapeTable

SCALE_SETTING = "stands_for_factor"
"""The key in a table's settings that holds the factor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShapeScale:
    """How a table is scaled: token rows, K and N times `factor`, rows of the batch axis times 1.

    Raises:
        UserError: the factor is not a whole number from 1 up.
    """

    factor: int

    def __post_init__(self) -> None:
        """See the class."""
        if type(self.factor) is not int or self.factor < 1:
            raise UserError(
                f"The scale's factor is {self.factor!r}; expected a whole number from 1 up. Correct"
                " `stands_for` in the study."
            )

    def __str__(self) -> str:
        """The scale in words, for notes."""
        return (
            f"priced at the scale it stands for: token rows, K and N x {self.factor}, batch rows"
            " unscaled, the denoiser alone"
        )


def batch_rows(table: ShapeTable) -> int:
    """The M of Linears that see no tokens in one forward: modulation, time, guidance, pooled text.

    That is the batch size if a Linear has this M. Else it is twice the batch size if a Linear has
    that M, because guidance may double the batch. Else it is the batch size.
    """
    rows = {m for linear in table.linears for m, _ in linear.m_values}
    return next(
        (m for m in (table.batch_size, 2 * table.batch_size) if m in rows), table.batch_size
    )


def stand_for(table: ShapeTable, scale: ShapeScale) -> ShapeTable:
    """Scale a small model's table to the model that it stands for.

    Token rows, K and N are multiplied by the factor. Rows of the batch axis (M =
    `batch_rows(table)`), names, calls and dtypes stay. The counts of the denoisers grow as
    `RunCounts.scaled` says; other components are left out, since a decoder and text encoders do not
    grow as their denoiser does. Scaling twice multiplies the factors.
    """
    batch = batch_rows(table)
    before = scale_of(table)
    factor = scale.factor * (before.factor if before else 1)
    return dataclasses.replace(
        table,
        linears=tuple(_scaled(linear, scale.factor, batch) for linear in table.linears),
        settings={**table.settings, SCALE_SETTING: factor},
        run=None if table.run is None else _denoisers_of(table, table.run).scaled(scale.factor),
    )


def _denoisers_of(table: ShapeTable, run: RunCounts) -> RunCounts:
    """The counts of the table's components; of the one with most Linears if it names none."""
    most = max(run.components, key=lambda counts: counts.linear_flops, default=None)
    names = table.components or ((most.component,) if most is not None else ())
    return RunCounts(components=tuple(c for c in run.components if c.component in names))


def scale_of(table: ShapeTable) -> ShapeScale | None:
    """The scale that a table was brought to; None if it was not scaled."""
    factor = table.settings.get(SCALE_SETTING)
    return None if factor is None else ShapeScale(factor=factor)  # type: ignore[arg-type]


def _scaled(linear: LinearProfile, factor: int, batch: int) -> LinearProfile:
    rows: Counter[int] = Counter()
    for m, calls in linear.m_values:
        rows[m if m == batch else m * factor] += calls
    m_values = tuple(sorted(rows.items()))
    return dataclasses.replace(
        linear,
        m=m_values[-1][0],
        k=linear.k * factor,
        n=linear.n * factor,
        m_values=m_values,
    )
