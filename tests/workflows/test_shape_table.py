"""A search, and all that follows it, is priced by times that were measured once on the GPU at hand;
what cannot be measured is refused with its reason, before anything is loaded.

On a CPU: `support.fake_gpu` stands for the GPU.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sensitivity.core.format_name import FormatName
from sensitivity.errors import DeviceLostError, StoreError, UserError
from sensitivity.latency import LatencyModel
from sensitivity.latency.measured import MeasuredLatency
from sensitivity.latency.pricer import latency_model
from sensitivity.latency.shape_times import LinearShape, shapes_of
from sensitivity.search.candidates import Candidates
from sensitivity.search.finished import Wanted, list_optuna_studies
from sensitivity.search.grouping import make_candidates
from sensitivity.search.kept_prices import KeptPrices
from sensitivity.search.settings import SearchSettings, study_name
from sensitivity.search.store import Store
from sensitivity.shapes.run import run_shapes
from sensitivity.shapes.shape_run import ShapeRun
from sensitivity.spec.loading import load_spec
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows import latency_source, shape_table, table_work
from sensitivity.workflows import prepare as preparing
from sensitivity.workflows import select as selecting
from sensitivity.workflows.audit import AuditRequest, audit_list, read_source
from sensitivity.workflows.audit.auditing import priced_formats
from sensitivity.workflows.conclude import SearchOutcome
from sensitivity.workflows.find import find_recipe
from sensitivity.workflows.plan import plan_search
from sensitivity.workflows.prepare import prepare
from sensitivity.workflows.progress import Measuring
from sensitivity.workflows.requests import SearchRequest, SelectRequest
from sensitivity.workflows.select import select_recipe
from sensitivity.workflows.shape_table import pricer_at_hand, prices_of, table_pricer

from support.fake_gpu import NAME, TARGET, FakeGpu, linear_us
from support.searches import essence

FP8 = FormatName.FP8


@pytest.fixture(scope="module")
def spec(tiny_study: Path) -> StudySpec:
    """The tiny study, priced at its own size."""
    found = load_spec(tiny_study)
    return found.model_copy(
        update={"pricing": found.pricing.model_copy(update={"stands_for": 1, "target": TARGET})}
    )


@pytest.fixture(scope="module")
def run(spec: StudySpec) -> ShapeRun:
    """Its run without weights."""
    return run_shapes(spec)


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    """A fake GPU at hand, with a database of times in the test's folder."""
    made = FakeGpu(tmp_path / "times.db")
    made.plug_in(monkeypatch)
    return made


@pytest.fixture
def ask(runs: Path, tmp_path: Path) -> Callable[..., SearchRequest]:
    """Makes a request for FP8 with references that all tests share."""

    def make(**more: Any) -> SearchRequest:
        given: dict[str, Any] = {
            "formats": (FP8,),
            "budget": 3,
            "calibrated": False,
            "storage": tmp_path / "study.db",
            "cache_folder": runs / "references",
        }
        return SearchRequest(**given | more)

    return make


class Heard:
    """What a measurement told its caller."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.progress: list[tuple[int, int, str]] = []
        self.failed: dict[str, str] = {}

    @property
    def measuring(self) -> Measuring:
        return Measuring(
            progress=lambda *event: self.progress.append(event),
            noted=self.notes.append,
            measured=lambda times: self.failed.update(times.failed),
        )


def measured(spec: StudySpec, run: ShapeRun, heard: Heard | None = None) -> MeasuredLatency:
    """The model that a search of FP8 is priced by."""
    measuring = (heard or Heard()).measuring
    make = table_pricer(spec, device="cpu", measuring=measuring)
    model = make(run, run.table, (FP8,), latency_model(spec, None))
    assert isinstance(model, MeasuredLatency)
    return model


def candidates_of(spec: StudySpec, run: ShapeRun, latency: LatencyModel) -> Candidates:
    """What a search of FP8 may choose from."""
    return make_candidates(run.table, spec, formats=(FP8,), latency=latency)


def test_gains_are_those_of_the_measured_rows(spec: StudySpec, run: ShapeRun, gpu: FakeGpu) -> None:
    """Every group's gain is calls x (bf16 - FP8) of its measured shapes; what will be measured is
    said before, with the time, and progress counts the shapes; a second time all is known.
    """
    heard = Heard()
    made = candidates_of(spec, run, measured(spec, run, heard))
    readers = run.table.readers
    rows = {linear.fqn: linear for linear in run.table.linears}
    by_key = {str(shape): shape for shape in shapes_of(run.table, (FP8,))}

    def us(fqn: str, m: int, name: FormatName) -> float:
        x, r = rows[fqn], readers.get(fqn, 1)
        kind = "linear" if x.block else "eager-linear"
        ends = f"m={m} k={x.k} n={x.n} bias={int(x.bias)} {name.value}"
        first = linear_us(by_key[f"{kind} {ends}"])
        if r == 1 or name is not FP8:
            return first
        return (first + (r - 1) * linear_us(by_key[f"sibling-linear {ends}"])) / r

    for group in made.groups:
        saved = sum(
            calls * (us(fqn, m, FormatName.BF16) - us(fqn, m, FP8)) / 1e6
            for fqn in group.fqns
            for m, calls in rows[fqn].m_values
        )
        assert group.gains_s == pytest.approx((0.0, saved))
    shapes = heard.progress[-1][1]
    assert heard.progress[-1] == (shapes, shapes, "")
    about = shapes * table_work.SHAPE_S
    assert f"{shapes} of {shapes} shapes to measure, about {about / 60:.0f} min" in heard.notes[0]
    timed, again = len(gpu.timed), Heard()
    assert candidates_of(spec, run, measured(spec, run, again)) == made
    assert len(gpu.timed) == timed
    assert f"all {shapes} shapes were measured before, and are used again" in again.notes[0]


@pytest.fixture(scope="module")
def searched(
    spec: StudySpec, runs: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[SearchOutcome, Path]:
    """A search of three trials by measured latency, and its folder."""
    folder, heard = tmp_path_factory.mktemp("measured"), Heard()
    with pytest.MonkeyPatch.context() as patch:
        FakeGpu(folder / "times.db").plug_in(patch)
        outcome = find_recipe(
            spec,
            SearchRequest(
                formats=(FP8,),
                budget=3,
                calibrated=False,
                storage=folder / "study.db",
                cache_folder=runs / "references",
            ),
            measuring=heard.measuring,
        )
    assert heard.notes[0] == (
        f"prices are measured on the {NAME} at hand (`latency` predicted would take the prediction)"
    )
    return outcome, folder


def test_a_search_keeps_the_prices_that_decided_it(
    searched: tuple[SearchOutcome, Path], spec: StudySpec
) -> None:
    """The study says where its prices come from, and holds the rows with their digest."""
    outcome, folder = searched
    with Store.open(folder / "study.db") as store:
        (study,) = list_optuna_studies(store, spec.name)
    assert study.settings is not None
    assert study.settings.latency == "measured"
    assert study.prices == outcome.prepared.candidates.prices
    assert study.prices is not None
    assert {row["key"] for row in study.prices.rows} >= {
        str(shape) for shape in shapes_of(outcome.prepared.priced, (FP8,))
    }
    assert "`latency` measured" in study.describe()
    assert study.is_wanted(Wanted(latency="measured"))
    assert not study.is_wanted(Wanted(latency="predicted"))


def test_the_same_command_goes_on_whatever_became_of_the_table(
    searched: tuple[SearchOutcome, Path], spec: StudySpec, runs: Path
) -> None:
    """The shared times are gone, and the GPU is slower today: the study's own rows price it, and
    nothing is measured; a study of another seed in the same database has the same prices.
    """
    before, folder = searched
    with pytest.MonkeyPatch.context() as patch:
        gpu = FakeGpu(folder / "other-times.db")
        gpu.slower = 1.5
        gpu.plug_in(patch)
        request = SearchRequest(
            formats=(FP8,),
            budget=3,
            calibrated=False,
            storage=folder / "study.db",
            cache_folder=runs / "references",
        )
        again = find_recipe(spec, request)
    assert gpu.timed == []
    assert again.result.study == before.result.study
    assert essence(again.result.trials) == essence(before.result.trials)


def test_selecting_needs_neither_the_gpu_nor_the_table(
    searched: tuple[SearchOutcome, Path],
    spec: StudySpec,
    runs: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another choice is made by the very prices of the search, where there is no GPU."""
    before, folder = searched

    def measure(*_shapes: Any, **_how: Any) -> None:
        raise AssertionError("a shape was measured")

    monkeypatch.setattr(shape_table, "measure_shapes", measure)
    outcome = select_recipe(
        spec, SelectRequest(storage=folder / "study.db", cache_folder=runs / "references")
    )
    assert outcome.prepared.latency.source == "measured"
    assert outcome.prepared.candidates == before.prepared.candidates
    assert [t.latency_s for t in outcome.result.trials] == [
        t.latency_s for t in before.result.trials
    ]
    assert outcome.chosen == before.chosen


def test_scores_of_another_device_are_not_chosen_from(
    searched: tuple[SearchOutcome, Path],
    spec: StudySpec,
    runs: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the GPU is not, `select` says so before it loads the model."""
    laptop = {"device": "laptop CPU"}
    monkeypatch.setattr(selecting, "describe_environment", lambda _device: laptop)
    with pytest.raises(StoreError, match=r"`device` cpu is a laptop CPU; .*choose there"):
        select_recipe(
            spec,
            SelectRequest(storage=searched[1] / "study.db", cache_folder=runs / "references"),
        )


def test_a_study_without_its_prices_says_so(
    searched: tuple[SearchOutcome, Path],
    spec: StudySpec,
    runs: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Prices that are not in the database are not replaced by a prediction."""
    monkeypatch.setattr("sensitivity.search.finished.PRICES", "lost")
    with pytest.raises(StoreError, match=r"priced by times that were measured.*are not in the"):
        select_recipe(
            spec,
            SelectRequest(storage=searched[1] / "study.db", cache_folder=runs / "references"),
        )


def test_rows_are_part_of_a_study_s_name(searched: tuple[SearchOutcome, Path]) -> None:
    """Other times make another study."""
    done = searched[0].prepared
    settings = SearchSettings(formats=(FP8,), target=TARGET, budget=3, latency="measured")
    name = study_name(done.evaluator, done.candidates, settings)
    prices = done.candidates.prices
    assert prices is not None
    one = {**prices.rows[0], "us": [x + 0.001 for x in prices.rows[0]["us"]]}
    other = KeptPrices(
        machine=prices.machine, compile_mode=prices.compile_mode, rows=(one, *prices.rows[1:])
    )
    assert other.digest != prices.digest
    changed = preparing.replace(done.candidates, prices=other)
    assert study_name(done.evaluator, changed, settings) != name


def test_a_choice_costs_what_its_estimate_says(spec: StudySpec, run: ShapeRun) -> None:
    """The seconds of a choice are those of the latency model for its formats, also for this small
    model, whose host is slower than the GPU.
    """
    latency = latency_model(spec, None)
    made = candidates_of(spec, run, latency)
    assert made.host is not None
    for choice in (made.none_quantized, made.rule_of_thumb, made.all_quantized()):
        estimate = latency.estimate(run.table, made.decode(choice))
        assert made.latency_s(choice) == pytest.approx(estimate.quantized_s)
    assert made.latency_s(made.all_quantized()) > made.bf16_s
    assert made.without([(0, 1)]).latency_s(made.all_quantized()) < made.latency_s(
        made.all_quantized()
    )


@pytest.mark.parametrize(
    ("changes", "formats", "said"),
    [
        ({"stands_for": 16}, (FP8,), "stands for a model 16 times its size"),
        ({"target": "b200"}, (FP8,), "b200 is priced; expected `target` h200"),
        ({}, (FP8, FormatName.NVFP4), r"nvfp4 does not run natively .*it has no such kernel"),
    ],
)
def test_a_wrong_wish_is_refused_before_anything_is_loaded(
    spec: StudySpec,
    gpu: FakeGpu,  # noqa: ARG001  # it is at hand
    ask: Callable[..., SearchRequest],
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    formats: tuple[FormatName, ...],
    said: str,
) -> None:
    """A model that stands for another, another GPU, and a format that is emulated cannot be
    measured; without the wish such a search is predicted.
    """

    def load(*_study: Any, **_how: Any) -> None:
        raise AssertionError("something was loaded")

    monkeypatch.setattr(preparing, "compare_by", load)
    other = spec.model_copy(update={"pricing": spec.pricing.model_copy(update=changes)})
    target = "b200" if "nvfp4" in formats else None
    if target is not None:
        monkeypatch.setattr(latency_source, "gpu_name", lambda _device: "NVIDIA B200")
    with pytest.raises(UserError, match=said):
        prepare(other, ask(latency="measured", formats=formats, target=target))
    source = latency_source.latency_source(
        other, None, target=target, device="cpu", formats=formats
    )
    assert source == "predicted"


def test_an_unknown_gpu_is_measured_if_a_file_describes_it(
    spec: StudySpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device TOML may be of any GPU, so it takes the wish to measure; without one, none helps."""
    monkeypatch.setattr(latency_source, "gpu_name", lambda _device: "Toy 3000")
    monkeypatch.setattr(latency_source, "native_refusal", lambda *_: None)
    path = tmp_path / "toy.toml"
    path.write_text('name = "toy"\nlike = "h200"\n')
    how: dict[str, Any] = {"device": "cpu", "formats": (FP8,)}

    def source(asked: Any, target: str) -> str:
        return latency_source.latency_source(spec, asked, target=target, **how)

    assert source("measured", str(path)) == "measured"
    assert source(None, str(path)) == "predicted"
    with pytest.raises(UserError, match="Toy 3000 of this machine is no device that the package"):
        source("measured", TARGET)


def test_a_cpu_measures_nothing(spec: StudySpec, ask: Callable[..., SearchRequest]) -> None:
    """Without a GPU the wish is refused, and the default is a prediction."""
    with pytest.raises(UserError, match=r"`device` is 'cpu'; expected the GPU that is priced"):
        prepare(spec, ask(latency="measured"))
    assert (
        latency_source.latency_source(spec, None, target=None, device="cpu", formats=(FP8,))
        == "predicted"
    )


def test_times_of_other_versions_are_measured_anew(
    spec: StudySpec, run: ShapeRun, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table of another driver is not used, and that is said."""
    measured(spec, run)
    timed = len(gpu.timed)
    changed = {**table_work.machine_of("cpu"), "driver": "999.1"}
    monkeypatch.setattr(table_work, "machine_of", lambda _device: changed)
    monkeypatch.setattr(
        "sensitivity.latency.timing.shape_timing.machine_of", lambda _device: changed
    )
    heard = Heard()
    prices = prices_of(measured(spec, run, heard))
    assert len(gpu.timed) == 2 * timed
    assert (
        "were measured with driver unknown instead of 999.1, and are measured anew"
        in (heard.notes[0])
    )
    assert prices is not None
    assert prices.machine == changed


def test_an_interruption_loses_one_shape(spec: StudySpec, run: ShapeRun, gpu: FakeGpu) -> None:
    """Ctrl-C at the fourth shape: three are kept, and the same command measures the others."""

    def interrupt(done: int, _total: int, _key: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        table_pricer(spec, device="cpu", measuring=Measuring(progress=interrupt))(
            run, run.table, (FP8,), latency_model(spec, None)
        )
    kept, heard = set(gpu.timed), Heard()
    gpu.timed.clear()
    measured(spec, run, heard)
    assert kept
    assert not kept & set(gpu.timed)
    assert "3 were measured before" in heard.notes[0]


def test_a_shape_that_fails_stays_bf16(spec: StudySpec, run: ShapeRun, gpu: FakeGpu) -> None:
    """In FP8, or in bf16 too: the others go on, its Linears are no candidates, and the reason is
    in the candidates and with the caller; another try measures it.
    """
    first = candidates_of(spec, run, measured(spec, run))
    shapes = [s for s in gpu.timed if s.format is FP8 and not s.eager and not s.sibling]
    in_fp8, in_both = shapes[0], shapes[1]
    gpu.times = gpu.times.with_name("empty.db")

    def fails(shape: LinearShape) -> BaseException | None:
        at = (shape.m, shape.k, shape.n)
        if at == (in_both.m, in_both.k, in_both.n):
            return RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED")
        is_fp8 = shape.format is FP8 and at == (in_fp8.m, in_fp8.k, in_fp8.n)
        return RuntimeError("no kernel") if is_fp8 else None

    gpu.fails = fails
    heard = Heard()
    latency = measured(spec, run, heard)
    made = candidates_of(spec, run, latency)
    reasons = list(made.fixed.values())
    assert any("no kernel" in why for why in reasons)
    assert any("not measured in bf16: " in why for why in reasons)
    free = {fqn for group in made.groups for fqn in group.fqns}
    assert free
    assert not free & set(made.refused)
    assert str(in_fp8) in heard.failed
    assert "shapes without a time in bf16 are predicted" in latency.covers
    gpu.fails = lambda _shape: None
    assert candidates_of(spec, run, measured(spec, run)).groups == first.groups


def test_a_broken_context_ends_with_the_next_step(
    spec: StudySpec, run: ShapeRun, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing runs on the GPU any more, the same command is named, and it goes on."""
    gpu.fails = lambda shape: RuntimeError("illegal address") if shape.format is FP8 else None
    monkeypatch.setattr(shape_table, "context_error", lambda _device: "illegal address")
    with pytest.raises(DeviceLostError, match=r"broke the CUDA context.*run the same command"):
        measured(spec, run)


def test_a_dry_run_says_what_will_be_measured(
    spec: StudySpec, gpu: FakeGpu, ask: Callable[..., SearchRequest]
) -> None:
    """How many shapes and how long, as a step of the search; nothing is measured or written."""
    before = plan_search(spec, ask())
    assert before.shapes is not None
    assert before.shapes.missing == before.shapes.shapes > 0
    assert before.steps_s["shape table"] == before.shapes.seconds
    assert before.to_json()["shape_table"]["missing"] == before.shapes.missing
    assert not gpu.times.exists()


def test_an_audit_has_the_measured_gains(
    spec: StudySpec, run: ShapeRun, gpu: FakeGpu, tmp_path: Path
) -> None:
    """Its gains are those of a search by the same rows, and its seconds are called measured."""
    listed = tmp_path / "list.txt"
    listed.write_text("proj_out\n")
    source = read_source(str(listed), form="glob", allow_code=False, format=FP8)
    request = AuditRequest(source=source, format=FP8, vary=False, storage=tmp_path / "none.db")
    formats = priced_formats(request)
    assert formats == (FP8,)
    how: dict[str, Any] = {"target": None, "device": "cpu", "formats": formats}
    assert pricer_at_hand(spec, "predicted", **how) is None
    done = audit_list(spec, request, latency=pricer_at_hand(spec, "measured", **how))
    assert gpu.timed
    assert done.to_json()["source"] == "measured"
    model = done.subject.model
    for group in candidates_of(spec, run, measured(spec, run)).groups:
        saved = sum(model.gain_s(fqn, FP8) for fqn in group.members[1])
        assert saved == pytest.approx(group.gains_s[1])
