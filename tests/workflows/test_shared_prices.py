"""Workers that begin a study together are priced by the times that one of them measured."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from sensitivity.latency.shape_times import ShapeTime, ShapeTimes
from sensitivity.search.claims import Claims
from sensitivity.search.store import Store
from sensitivity.search.workers import Worker
from sensitivity.spec.loading import resolve_spec
from sensitivity.workflows import shared_prices
from sensitivity.workflows.progress import Measuring
from sensitivity.workflows.requests import SearchRequest
from sensitivity.workflows.shared_prices import SharedPrices

H200 = {"device": "NVIDIA H200", "driver": "600.1"}
Make = Callable[..., SharedPrices]


def times(us: float) -> ShapeTimes:
    """What a measurement gives: a shape that took so long, and one that failed."""
    rows = (ShapeTime(key="a", us=(us, us + 1)), ShapeTime(key="b", reason="refused"))
    return ShapeTimes(machine=H200, compile_mode="default", rows={row.key: row for row in rows})


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes a worker's shared prices, each with a connection of its own."""
    monkeypatch.setattr(shared_prices, "POLL_S", 0.02)
    with ExitStack() as stack:

        def new(seen: list[str] | None = None, **machine: str) -> SharedPrices:
            store = stack.enter_context(Store.open(tmp_path / "study.db", shared=True))
            worker = stack.enter_context(Worker.join(store, work="search", device="cpu"))
            return SharedPrices(
                store,
                Claims(store, worker),
                resolve_spec("tiny-flux"),
                SearchRequest(),
                (seen if seen is not None else []).append,
                machine=lambda _device: H200 | machine,
            )

        yield new


def test_one_measures_and_the_others_wait_for_its_rows(make: Make) -> None:
    """The rows are the first one's, repetitions and failures included; nobody measures again."""
    said: list[str] = []
    heard: list[ShapeTimes] = []
    first, second = make(), make(said)
    assert first.find() == []
    found: list[object] = []
    waiting = threading.Thread(target=lambda: found.append(second.find()))
    waiting.start()
    waiting.join(0.15)
    assert waiting.is_alive()
    assert said == ["waiting for another worker to measure the times of shapes"]
    first.following(Measuring(measured=heard.append)).measured(times(3.0))
    waiting.join(10)
    ((prices,),) = found  # type: ignore[misc]
    assert prices.machine == H200
    assert prices.rows == tuple(row.to_json() for row in times(3.0).rows.values())
    second.following(None).measured(times(9.0))  # it had the rows, and keeps nothing
    assert make().find() == [prices]
    assert heard == [times(3.0)]


def test_a_worker_that_ends_in_it_is_replaced(make: Make) -> None:
    """Its claim ends with it."""
    first, second = make(), make()
    assert first.find() == []
    first.claims.worker.leave()
    assert second.find() == []
    second.following(None).measured(times(4.0))
    assert make().find()[0].rows[0]["us"] == [4.0, 5.0]


def test_another_machine_measures_its_own(make: Make) -> None:
    """Rows hold for one kind of GPU, and its driver."""
    first = make()
    assert first.find() == []
    first.following(None).measured(times(3.0))
    other = make(driver="601.0")
    assert other.find() == []


def test_asking_twice_before_measuring_does_not_wait_for_oneself(make: Make) -> None:
    """A search may be priced a second time."""
    first = make()
    assert first.find() == first.find() == []
