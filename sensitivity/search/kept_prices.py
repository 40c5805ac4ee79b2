"""By which measured times was a study priced? `KeptPrices`, which the study keeps with its trials.

A search by measured latency is decided by a table of times: of one GPU, one driver, certain
versions, one compile mode. The same table must price the study's trials whenever they are read
again, also where that GPU is not, and after its shapes were measured anew. So the study holds the
rows themselves, with their raw repetitions, and its name holds their digest (`search.settings`).

    prices = KeptPrices(machine={"device": "NVIDIA H200", ...}, compile_mode="reduce-overhead",
                        rows=rows)
    KeptPrices.from_json(prices.to_json()) == prices

A study that is priced by a prediction keeps none. Rows are those of `latency.shape_times`, as JSON;
this module prices nothing.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from sensitivity.core.format_name import CompileMode
from sensitivity.core.words import and_more, first_line
from sensitivity.errors import StoreError

Row = Mapping[str, Any]
"""A `latency.shape_times.ShapeTime` as JSON: its key, its repetitions, or why there are none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptPrices:
    """Measured times of all shapes of a study.

    Attributes:
        machine: GPU, driver, versions and method of the measurement.
        compile_mode: how the priced run is compiled.
        rows: one for each shape and format, failed ones too.
    """

    machine: Mapping[str, str]
    compile_mode: CompileMode
    rows: tuple[Row, ...]

    @property
    def device(self) -> str:
        """The GPU's name."""
        return self.machine.get("device", "an unknown GPU")

    @property
    def digest(self) -> str:
        """sha256 of what decides prices: each row's key and repetitions, in any order."""
        values = sorted([row["key"], row.get("us"), row.get("rested_us")] for row in self.rows)
        return hashlib.sha256(json.dumps(values).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """What the study keeps: the source, the machine, the digest and every row."""
        return {
            "source": "measured",
            "machine": dict(self.machine),
            "compile_mode": self.compile_mode,
            "digest": self.digest,
            "rows": [dict(row) for row in self.rows],
        }

    @classmethod
    def from_json(cls, data: object, *, study: str = "a study") -> "KeptPrices":
        """Read what `to_json` gave.

        Raises:
            StoreError: it is something else, or the rows are not those of the digest.
        """
        try:
            found = _PRICES.validate_python(data)
            stated = data.get("digest") if isinstance(data, Mapping) else None
            if stated != found.digest:
                raise ValueError("its rows are not those of its digest")
        except (ValueError, LookupError, TypeError) as error:  # pydantic's too
            raise StoreError(
                f"the measured prices of {study} cannot be read ({_why(error)}); expected what its"
                " search kept: run the same search again"
            ) from None
        return found


_PRICES = TypeAdapter(KeptPrices)


def _why(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return f"no {error}" if isinstance(error, LookupError) else first_line(error)
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def differences(one: Mapping[str, str], other: Mapping[str, str]) -> str:
    """In what two machines differ, as "torch 2.11.0 instead of 2.12.0"; "" where in nothing."""
    changed: Iterable[str] = (
        f"{name} {one.get(name, 'unknown')} instead of {other.get(name, 'unknown')}"
        for name in dict.fromkeys((*one, *other))
        if one.get(name) != other.get(name)
    )
    return and_more(changed, most=3)
