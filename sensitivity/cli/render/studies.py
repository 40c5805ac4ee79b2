"""Studies as tables: those that come with the package, and the keys of one."""

import json
from collections.abc import Iterable, Mapping

from sensitivity.cli.render.tables import Either, FittedTable, words
from sensitivity.models.local_copies import Copies
from sensitivity.spec.study_keys import KeyValue
from sensitivity.spec.study_spec import StudySpec

LONG, SHORT = 130, 90
"""Characters of a value that are shown, in a wide terminal and in a narrow one; JSON has all."""


def studies_table(specs: Mapping[str, StudySpec], here: Mapping[str, Copies]) -> FittedTable:
    """A row a study: its model, and what of it is on this machine.

    Args:
        specs: {name: study}.
        here: {name: what is on this machine}.
    """
    table = FittedTable(
        words("study", least=20),
        words("model", least=20),
        words("denoiser", drop=2, least=13),
        words("on this machine"),
        words("about", drop=1, least=28),
    )
    for name, spec in specs.items():
        denoisers = ", ".join(spec.model.denoisers)
        table.add_row(name, spec.model.hub or "-", denoisers, here[name].value, spec.title)
    return table


def keys_table(keys: Iterable[KeyValue]) -> FittedTable:
    """A row a key: its value and where it comes from."""
    table = FittedTable(words("key", least=20), words("value", least=20), words("origin"))
    for key in keys:
        table.add_row(
            key.key, Either(_value(key.value, LONG), _value(key.value, SHORT)), key.origin
        )
    return table


def _value(value: object, most: int) -> str:
    """A value as JSON in one line, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    if len(text) <= most:
        return text
    of = f" ({len(value)} in all)" if isinstance(value, list) else ""
    return f"{text[:most]}...{of}"
