"""Models that do what others do not: layers that a format breaks, denoisers that cannot be
differentiated or compiled, outputs by other names. The search goes on.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sensitivity.core.format_name import FormatName
from sensitivity.errors import CalibrationError, FormatError, PipelineError, UserError
from sensitivity.fidelity import compiled_blocks
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.fidelity.lpips import SMALLEST, LpipsDistance
from sensitivity.models.compiled_regions import CompiledRegions
from sensitivity.models.generating import MediaGenerator
from sensitivity.models.loading import load_pipeline
from sensitivity.models.media import Media
from sensitivity.search.calibration import gradient
from sensitivity.search.calibration.jobs import BROKEN, broken_options, finite
from sensitivity.search.calibration.local import local_error
from sensitivity.search.calibration.states import first_tensor
from sensitivity.search.candidates import baselines
from sensitivity.search.trials import SearchEvents
from sensitivity.spec.loading import load_spec
from sensitivity.workflows.conclude import SearchOutcome
from sensitivity.workflows.find import find_recipe
from sensitivity.workflows.prepare import Prepared
from sensitivity.workflows.requests import SearchRequest, SelectRequest
from sensitivity.workflows.select import select_recipe

from support.paths import TRUNK

Search = Callable[..., SearchOutcome]


@pytest.fixture
def said() -> list[str]:
    """What a search says beside its trials."""
    return []


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the references of the tiny study are kept for all searches."""
    return tmp_path_factory.mktemp("references")


@pytest.fixture
def search(tiny_study: Path, tmp_path: Path, references: Path, said: list[str]) -> Search:
    """Searches the tiny study in a database of its own."""

    def run(budget: int) -> SearchOutcome:
        request = SearchRequest(
            budget=budget, storage=tmp_path / "study.db", cache_folder=references
        )
        return find_recipe(load_spec(tiny_study), request, events=SearchEvents(noted=said.append))

    return run


# --- layers that a format breaks ------------------------------------------------------------------


def break_role(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let every Linear of width 192 to `name` features give NaN in any format, as far as
    calibration sees it; all of them where `name` is "".
    """

    def local(linear: nn.Linear, *arguments: Any) -> Tensor:
        error = local_error(linear, *arguments)
        return (
            error * torch.nan
            if not name or f"{linear.in_features}-{linear.out_features}" == name
            else error
        )

    monkeypatch.setattr(gradient, "local_error", local)


def test_what_gives_nan_stays_out_of_the_search(
    search: Search,
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tiny_study: Path,
    tmp_path: Path,
    references: Path,
) -> None:
    """The groups are named; no trial quantizes them, "all nvfp4" does without them; choosing again
    from the database sees the same trials.
    """
    break_role(monkeypatch, "192-768")  # the MLPs' first Linears
    outcome = search(2)
    groups = outcome.prepared.candidates.groups
    broken = [
        g
        for g, group in enumerate(groups)
        if "ff.net.0.proj" in group.name
        or "ff_context.net.0.proj" in group.name
        or "proj_mlp" in group.name
    ]
    assert broken
    assert [text.partition(":")[0] for text in said] == ["left out of the search"]
    assert all(f"{groups[g].name} in nvfp4" in said[0] for g in broken[:5])
    trials = outcome.result.trials
    assert outcome.result.tried == 2
    assert all(trial.choice[g] == 0 for trial in trials for g in broken)
    assert next(trial for trial in trials if trial.label == "all nvfp4").choice == tuple(
        int(g not in broken) for g in range(len(groups))
    )
    again = select_recipe(
        load_spec(tiny_study),
        SelectRequest(storage=tmp_path / "study.db", cache_folder=references),
    )
    assert again.result.trials == trials
    assert again.recipe == outcome.recipe


def test_a_format_that_breaks_everything_is_refused(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names groups and the next step; no trial is run, since each would fail."""
    break_role(monkeypatch, "")
    with pytest.raises(
        FormatError, match=r"in nvfp4, .* and \d+ more: NaN or inf, .*choose another `format`"
    ):
        search(3)


def test_only_nan_is_broken(prepared: Prepared) -> None:
    """A finite error is below that of NaN, however large; candidates without an option mean bf16
    where a choice names it.
    """
    assert finite(float("nan")) == finite(float("inf")) == BROKEN
    assert 9 < finite(1e30) < BROKEN
    assert broken_options({(0, 1): BROKEN, (1, 1): finite(1e30)}) == {(0, 1)}
    candidates = prepared.candidates
    assert candidates.without([]) is candidates
    less = candidates.without([(0, 1)])
    everything = candidates.all_quantized()
    assert less.canonical(everything) == less.all_quantized() == (0, *everything[1:])
    assert less.latency_s(everything) == pytest.approx(candidates.latency_s((0, *everything[1:])))
    assert {fqn for fqn, fmt in less.decode(everything).items() if fmt is FormatName.BF16} >= {
        *candidates.groups[0].fqns
    }
    assert dict(baselines(less))["all nvfp4"] == (0, *everything[1:])


# --- denoisers that cannot be measured, or compiled -----------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        TypeError("got an unexpected keyword argument 'attention_mask'"),
    ],
)
def test_a_search_goes_on_without_layer_sensitivities(
    search: Search, said: list[str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Where no gradient is to be had (diffusers' checkpointing of HunyuanImage raises, memory runs
    out), trials alone say what damages, and a word says so.
    """

    def backward(*_: Any) -> None:
        raise error

    monkeypatch.setattr(torch.autograd, "backward", backward)
    outcome = search(1)
    assert said == [
        "the search goes on without layer sensitivities: no gradient of the FluxTransformer2DModel"
        f" could be computed ({type(error).__name__}: {error})"
    ]
    assert outcome.result.tried == 1
    assert outcome.recipe is not None


def test_a_list_with_a_tensor_for_each_picture_is_one_tensor() -> None:
    """As Z-Image's denoiser gives it; what begins with anything else is refused."""
    pictures = [torch.randn(4, 1, 8, 8) for _ in range(3)]
    assert torch.equal(first_tensor((pictures,)), torch.stack(pictures))
    for wrong in ((None, pictures), ([torch.zeros(2), torch.zeros(3)],), ([],)):
        with pytest.raises(CalibrationError, match="begins with no tensor"):
            first_tensor(wrong)


def test_blocks_that_torch_cannot_compile_run_eagerly(
    tiny_study: Path,
    evaluator: Evaluator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The references are those of an eager run, under its key, and so are the pictures after them;
    the reason is said.
    """

    def refuse(_graph: Any, _inputs: Any) -> Any:
        raise NotImplementedError("no such thing")

    monkeypatch.setattr(
        compiled_blocks, "CompiledRegions", partial(CompiledRegions, backend=refuse)
    )
    torch._dynamo.reset()
    compiled = Evaluator(
        load_pipeline(load_spec(tiny_study), device="cpu"),
        cache_folder=tmp_path / "other",
        compiled=True,
    )
    assert compiled.key("search") != evaluator.key("search")
    assert torch.equal(
        compiled.references("search").pictures, evaluator.references("search").pictures
    )
    assert compiled.key("search") == evaluator.key("search")
    assert len([*(tmp_path / "other").iterdir()]) == 1
    assert (
        "the denoiser's blocks are not compiled, since torch cannot (BackendCompilerFailed: "
        in caplog.text
    )
    assert torch.equal(
        compiled.generate({}, "search").pictures, evaluator.references("search").pictures
    )
    compiled.close()


# --- outputs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pictures", "found"),
    [
        (torch.full((3, 3, 64, 64), 0.5), "nothing but blank pictures"),
        (
            torch.cat([torch.rand(2, 3, 64, 64), torch.full((1, 3, 64, 64), torch.nan)]),
            "1 of 3 pictures with NaN or inf",
        ),
    ],
)
def test_a_pipeline_that_generates_nothing_in_bf16_is_refused(
    evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch, pictures: Tensor, found: str
) -> None:
    """Every skip-list would be perfect, or none could be scored: the message says what is
    generated, at which settings, and where to look.
    """
    monkeypatch.setattr(MediaGenerator, "generate", lambda *_, **__: Media(pictures=pictures))
    with pytest.raises(
        PipelineError,
        match=(
            rf"with nothing quantized, generates {found} at the settings .*'height': 64.*plain"
            r" diffusers"
        ),
    ):
        evaluator.references("search")
    some = torch.cat([torch.rand(2, 3, 64, 64), torch.zeros(1, 3, 64, 64)])
    monkeypatch.setattr(MediaGenerator, "generate", lambda *_, **__: Media(pictures=some))
    assert torch.equal(evaluator.references("held_out").pictures, some)  # a single one may be black


def test_pictures_that_are_too_small_for_the_net_are_refused() -> None:
    """Below the least size the message says what there is, what was expected and what to set; at it
    there is a distance.
    """
    distance = LpipsDistance("tiny", weights=TRUNK, device="cpu")
    least = SMALLEST["tiny"]
    assert float(distance(torch.zeros(1, 3, least, least), torch.rand(1, 3, least, least))[0]) > 0
    with pytest.raises(
        UserError,
        match=rf"have {least - 1} x 64 pixels; expected at least {least} x {least} .*`height`",
    ):
        distance(torch.zeros(1, 3, least - 1, 64), torch.zeros(1, 3, least - 1, 64))
