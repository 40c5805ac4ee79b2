"""A study keeps the very rows that priced it, and no others pass for them."""

from typing import Any

import pytest

from sensitivity.errors import StoreError
from sensitivity.search.kept_prices import KeptPrices, differences

from support.latency import MACHINE, measured_times


@pytest.fixture
def prices() -> KeptPrices:
    """Prices of a toy GPU."""
    rows = tuple(row.to_json() for row in measured_times(attention_us=3.0).rows.values())
    return KeptPrices(machine=MACHINE, compile_mode="reduce-overhead", rows=rows)


def test_prices_survive_json(prices: KeptPrices) -> None:
    """They are read back as they were, with their machine; their order does not matter."""
    data = prices.to_json()
    assert (data["source"], data["machine"]) == ("measured", MACHINE)
    assert KeptPrices.from_json(data) == prices
    turned = KeptPrices(
        machine=MACHINE, compile_mode="reduce-overhead", rows=tuple(reversed(prices.rows))
    )
    assert turned.digest == prices.digest


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda data: data["rows"][0].update(us=[1.0]), "its rows are not those of its digest"),
        (lambda data: data["rows"].pop(), "its rows are not those of its digest"),
        (lambda data: data["rows"][0].pop("key"), "'key'"),
        (lambda data: data.pop("machine"), "machine"),
        (lambda data: data.update(compile_mode="fast"), "compile_mode"),
    ],
)
def test_other_rows_are_refused(prices: KeptPrices, change: Any, why: str) -> None:
    """Changed rows, and what is no record of prices, are an error that names the study."""
    data = prices.to_json()
    change(data)
    with pytest.raises(StoreError, match=f"prices of toy-1 cannot be read .*{why}"):
        KeptPrices.from_json(data, study="toy-1")


def test_versions_that_differ_are_named() -> None:
    """What changed between two machines is told, and what one of them does not know."""
    now = {"device": "toy GPU", "torch": "2.15.0", "driver": "580.1"}
    before = {"device": "toy GPU", "torch": "2.11.0"}
    assert differences(before, now) == (
        "torch 2.11.0 instead of 2.15.0, driver unknown instead of 580.1"
    )
    assert differences(now, now) == ""
