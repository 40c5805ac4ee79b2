"""Can a run be priced as it is asked? `check_has_rows`, `check_names`.

    check_names(table, {"blocks.0.attn.to_q": FormatName.NVFP4})

What it does not do: ask whether a format takes a shape (`formats`), or a kernel (`refusals`).
"""

import difflib
from collections.abc import Iterable

from sensitivity.errors import PatternError, UserError
from sensitivity.shapes.table import ShapeTable


def check_has_rows(table: ShapeTable) -> None:
    """Raise UserError for a table without a single row to price."""
    if not any(linear.rows for linear in table.linears):
        raise UserError(
            f"The shape table of {table.model!r} has no Linear call with rows; expected one or"
            " more. Profile a run that calls them."
        )


def check_names(table: ShapeTable, fqns: Iterable[str]) -> None:
    """Raise PatternError for FQNs that the table does not have."""
    known = set(table.fqns)
    unknown = [fqn for fqn in fqns if fqn not in known]
    if unknown:
        closest = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f" (closest: {closest[0]!r})" if closest else ""
        raise PatternError(
            f"{len(unknown)} FQNs of the format map are no Linear of {table.model!r}, the first is"
            f" {unknown[0]!r}{hint}; expected some of the {len(known)} FQNs of its shape table."
            " Remove them, or profile the model that they belong to."
        )
