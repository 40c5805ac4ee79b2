"""Chunks of the search prompts: what shares a batch is the study's, looking in between changes
nothing, and drawing may end early.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sensitivity.core.format_name import FormatName
from sensitivity.errors import MeasurementError, SpecError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.fidelity.score import PartialScore, Score
from sensitivity.models.generating import MediaGenerator
from sensitivity.models.loading import LoadedPipeline, load_pipeline
from sensitivity.models.media import Media
from sensitivity.spec.loading import load_spec, parse_spec
from sensitivity.spec.study_spec import StudySpec

Make = Callable[..., Evaluator]


@pytest.fixture(scope="module")
def loaded(tiny_study: Path) -> LoadedPipeline:
    return load_pipeline(load_spec(tiny_study), device="cpu")


@pytest.fixture
def make(loaded: LoadedPipeline, tmp_path: Path) -> Iterator[Make]:
    """An Evaluator whose study has other keys in `[search]`; all share one cache of references."""
    made: list[Evaluator] = []

    def build(**search: Any) -> Evaluator:
        for old in made:
            old.close()
        data = loaded.spec.model_dump()
        spec = StudySpec.model_validate(data | {"search": data["search"] | search})
        fields = {
            name: getattr(loaded, name) for name in ("pipe", "denoiser", "device", "weights_hash")
        }
        made.append(
            Evaluator(LoadedPipeline(spec=spec, **fields), cache_folder=tmp_path / "references")
        )
        return made[-1]

    yield build
    made[-1].close()


def all_in(evaluator: Evaluator, name: FormatName) -> dict[str, FormatName]:
    """Every Linear of the blocks in one format."""
    return {
        fqn: name
        for fqn, module in evaluator.loaded.denoiser.named_modules()
        if "blocks." in fqn and hasattr(module, "in_features")
    }


def test_chunks_share_a_batch_and_looking_changes_nothing(make: Make) -> None:
    """nvfp4 pictures of chunk 2 are those of batches of 2 and 1; the score is the same to the last
    bit whether someone looks or not, and not that of 3 as 3.
    """
    evaluator = make(chunk=2)
    formats = all_in(evaluator, FormatName.NVFP4)
    pictures, (texts, seeds) = evaluator.generate_pictures(formats, "search"), evaluator.prompts("search")
    evaluator.switch.set(formats)
    assert torch.equal(pictures, MediaGenerator(evaluator.loaded).generate_pictures(texts, seeds, batch_size=2))
    evaluator.switch.set({})
    looked: list[tuple[float, ...]] = []
    drawn: list[int] = []
    unseen = evaluator.score(formats, "search")
    seen = evaluator.score(
        formats,
        "search",
        after_batch=drawn.append,
        keep_going=lambda values: looked.append(values) or True,
    )
    assert isinstance(seen, Score)
    assert seen == unseen
    assert (evaluator.interim_looks("search"), drawn) == (1, [2, 3])
    assert looked == [pytest.approx(seen.per_prompt[:2], rel=1e-4)]
    assert make().score(formats, "search").per_prompt != seen.per_prompt


def test_drawing_ends_where_the_looker_says_no(make: Make) -> None:
    """The first chunk's distances come back as a partial score, no further picture is drawn, and
    bf16 draws its references again.
    """
    evaluator = make(chunk=1)
    drawn: list[int] = []
    formats = all_in(evaluator, FormatName.NVFP4)
    full = evaluator.score(formats, "search")
    asked: list[int] = []
    ended = evaluator.score(
        formats,
        "search",
        after_batch=drawn.append,
        keep_going=lambda values: asked.append(len(values)) or len(values) < 2,
    )
    assert isinstance(ended, PartialScore)
    assert (asked, drawn, evaluator.interim_looks("search")) == ([1, 2], [1, 2], 2)
    assert ended.per_prompt == pytest.approx(full.per_prompt[:2], rel=1e-4)
    assert (ended.net, ended.prompts, ended.share) == ("tiny", 3, pytest.approx(2 / 3))
    assert ended.mean == pytest.approx(sum(full.per_prompt[:2]) / 2, rel=1e-4)
    assert torch.equal(
        evaluator.media_generator.generate_pictures(*evaluator.prompts("search"), batch_size=1),
        evaluator.references("search").pictures,
    )


def test_a_picture_that_is_not_finite_is_an_error_at_once(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where someone looks, NaN in the first chunk ends the trial before the second is drawn, and is
    not shown to the looker.
    """
    evaluator = make(chunk=1)
    evaluator.references("search")
    drawn: list[int] = []
    monkeypatch.setattr(
        MediaGenerator,
        "generate",
        lambda _self, texts, _seeds, **_: Media(
            pictures=torch.full((len(texts), 3, 64, 64), torch.nan)
        ),
    )
    with pytest.raises(MeasurementError, match=r"1 of 1 pictures have no finite distance"):
        evaluator.score(
            {},
            "search",
            after_batch=drawn.append,
            keep_going=lambda _: pytest.fail("looked at NaN"),
        )
    assert drawn == [1]


def test_the_chunk_is_part_of_every_search_key_and_of_no_other(make: Make) -> None:
    """Without a chunk keys are those of the batch size; with one, search pictures, references and
    scores have keys of their own, held-out ones stay.
    """
    plain = make()
    keys = plain.key("search"), plain.evaluation_key("search"), plain.evaluation_key("held_out")
    same = make(chunk=3)
    assert (
        same.key("search"),
        same.evaluation_key("search"),
        same.evaluation_key("held_out"),
    ) == keys
    other = make(chunk=2)
    assert other.key("search") == keys[0] | {"batch_size": 2}
    assert other.evaluation_key("search") != keys[1]
    assert other.evaluation_key("held_out") == keys[2]
    assert other.key("held_out")["batch_size"] == 3


def test_the_noise_floor_is_that_of_the_chunk(make: Make) -> None:
    """One picture at a time has none; two at a time are held against one at a time."""
    assert make(chunk=1).noise_floor is None
    evaluator = make(chunk=2)
    alone, together = (evaluator.references("search", batch_size=size).pictures for size in (1, 2))
    expected = evaluator.distance(alone, together).mean()
    assert evaluator.noise_floor == float(expected)


def test_an_order_moves_prompts_with_their_seeds(make: Make) -> None:
    """Drawn one by one, the scores of another order are the same scores in that order; keys differ,
    and held-out prompts stay.
    """
    plain = make(chunk=1)
    formats = all_in(plain, FormatName.MXFP8)
    first, (texts, seeds), held_out = (
        plain.score(formats, "search"),
        plain.prompts("search"),
        plain.evaluation_key("held_out"),
    )
    moved = make(chunk=1, order=[2, 0, 1])
    assert moved.prompts("search") == (
        (texts[2], texts[0], texts[1]),
        (seeds[2], seeds[0], seeds[1]),
    )
    assert moved.score(formats, "search").per_prompt == tuple(
        first.per_prompt[i] for i in (2, 0, 1)
    )
    assert moved.key("search") != plain.key("search")
    assert moved.evaluation_key("held_out") == held_out
    assert moved.prompts("held_out") == plain.prompts("held_out")


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"chunk": 4}, r"`search\.chunk` is 4; expected 1 to `search\.batch_size` \(3\)"),
        ({"chunk": 0}, r"search\.chunk"),
        ({"order": [0, 1]}, r"`search\.order` is \[0, 1\]; expected each of 0 to 2 once"),
        ({"order": [0, 1, 1]}, r"each of 0 to 2 once"),
        ({"order": [1, 2, 3]}, r"each of 0 to 2 once"),
    ],
)
def test_chunks_and_orders_that_do_not_fit_are_refused(
    loaded: LoadedPipeline, search: dict[str, Any], message: str
) -> None:
    """A chunk larger than the batch, and an order that is no permutation of the search prompts, are
    named with what is allowed.
    """
    data = loaded.spec.model_dump()
    with pytest.raises(SpecError, match=message):
        parse_spec(data | {"search": data["search"] | search}, where="test")
