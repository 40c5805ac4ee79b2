"""Search prompts are generated in the study's chunks. Seeing scores in between changes nothing, and
generation may stop early.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from sensitivity.core.format_name import FormatName
from sensitivity.errors import FormatError, MeasurementError, SpecError
from sensitivity.fidelity.evaluator import OTHER_SEED, Evaluator
from sensitivity.fidelity.judges._base import PictureJudge
from sensitivity.fidelity.judges.panel import Panel
from sensitivity.fidelity.judges.wishes import JudgeWishes
from sensitivity.fidelity.references import ReferenceCache
from sensitivity.fidelity.score import PartialScore, Score
from sensitivity.models.generating import MediaGenerator, digest_of
from sensitivity.models.loading import LoadedPipeline, load_pipeline
from sensitivity.models.media import Media
from sensitivity.spec.loading import load_spec, parse_spec

from support.blackwell import a_blackwell
from support.media import changed

Make = Callable[..., Evaluator]


@pytest.fixture(scope="module")
def loaded(tiny_study: Path) -> LoadedPipeline:
    return load_pipeline(load_spec(tiny_study), device="cpu")


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which references are kept for all tests of this file."""
    return tmp_path_factory.mktemp("references")


@pytest.fixture
def make(loaded: LoadedPipeline, references: Path) -> Iterator[Make]:
    """Makes an Evaluator whose study has other keys in `[search]`."""
    made: list[Evaluator] = []

    def build(**search: Any) -> Evaluator:
        for old in made:
            old.close()
        spec = changed(loaded.spec, search=search)
        made.append(Evaluator(replace(loaded, spec=spec), cache_folder=references))
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


def test_what_is_not_drawn_yet_is_counted(loaded: LoadedPipeline, tmp_path: Path) -> None:
    """References by split, twice where the noise floor has them one by one; `counting` tells every
    picture as it comes, and nothing afterwards.
    """
    spec = changed(loaded.spec, search={"chunk": 2})
    evaluator, told = Evaluator(replace(loaded, spec=spec), cache_folder=tmp_path), list[int]()
    prompts, held_out = (len(evaluator.prompts(split)[0]) for split in ("search", "held_out"))
    assert evaluator.undrawn("search") == 2 * prompts
    assert evaluator.undrawn("held_out") == held_out
    with evaluator.media_generator.counting(told.append):
        evaluator.references("search")
    assert told == [min(done, prompts) for done in range(2, prompts + 2, 2)]
    assert evaluator.undrawn("search") == prompts
    _ = evaluator.noise_floors
    assert evaluator.undrawn("search") == 0
    assert told[-1] == prompts
    evaluator.close()


def test_chunks_share_a_batch_and_interim_looks_change_nothing(make: Make) -> None:
    """nvfp4 pictures of chunk 2 are those of batches of 2 and 1; the score is the same to the last
    bit with and without an interim look, and is not that of one batch of 3.
    """
    evaluator = make(chunk=2)
    formats = all_in(evaluator, FormatName.NVFP4)
    pictures, (texts, seeds) = (
        evaluator.generate_pictures(formats, "search"),
        evaluator.prompts("search"),
    )
    evaluator.switch.set(formats)
    generator = MediaGenerator(evaluator.loaded)
    assert torch.equal(pictures, generator.generate_pictures(texts, seeds, batch_size=2))
    evaluator.switch.set({})
    looked: list[tuple[float, ...]] = []
    generated: list[int] = []
    unseen = evaluator.score(formats, "search")
    seen = evaluator.score(
        formats,
        "search",
        after_batch=generated.append,
        keep_going=lambda values: looked.append(values) or True,
    )
    assert isinstance(seen, Score)
    assert seen == unseen
    assert (evaluator.interim_looks("search"), generated) == (1, [2, 3])
    assert looked == [pytest.approx(seen.per_prompt[:2], rel=1e-4)]
    assert make().score(formats, "search").per_prompt != seen.per_prompt


def test_a_patched_pipeline_is_scored_quantized(make: Make, loaded: LoadedPipeline) -> None:
    """A pipeline whose Linears carry a forward of their own has the score of one without; where a
    patch multiplies in bf16, scoring stops with its name.
    """
    evaluator = make(chunk=3)
    formats = all_in(evaluator, FormatName.NVFP4)
    expected = evaluator.score(formats, "search")
    evaluator.close()
    linears = [evaluator.switch.linears[fqn] for fqn in formats]
    try:
        for linear in linears:
            linear.forward = lambda *a, f=linear.forward: f(*a)  # type: ignore[method-assign]
        assert make(chunk=3).score(formats, "search") == expected
        first = linears[0]
        first.forward = lambda x: x @ first.weight.t()  # type: ignore[method-assign]
        with pytest.raises(FormatError, match=r"ran in bf16 .*: 1 \(.*a `forward` on the instance"):
            make(chunk=3).score(formats, "search")
    finally:
        for linear in linears:
            del linear.forward
    assert loaded.denoiser is evaluator.loaded.denoiser


def test_generation_stops_when_the_caller_says_so(make: Make) -> None:
    """The distances so far come back as a partial score, no further picture is generated, and
    bf16's pictures are its references as before.
    """
    evaluator = make(chunk=1)
    generated: list[int] = []
    formats = all_in(evaluator, FormatName.NVFP4)
    full = evaluator.score(formats, "search")
    asked: list[int] = []
    ended = evaluator.score(
        formats,
        "search",
        after_batch=generated.append,
        keep_going=lambda values: asked.append(len(values)) or len(values) < 2,
    )
    assert isinstance(ended, PartialScore)
    assert (asked, generated, evaluator.interim_looks("search")) == ([1, 2], [1, 2], 2)
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
    """With an interim look, NaN in the first chunk is raised before the second chunk is generated,
    and the caller is not asked.
    """
    evaluator = make(chunk=1)
    evaluator.references("search")
    generated: list[int] = []
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
            after_batch=generated.append,
            keep_going=lambda _: pytest.fail("asked about NaN"),
        )
    assert generated == [1]


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
    """Generated one by one, the scores of another order are the same scores in that order; keys
    differ, and held-out prompts stay.
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


def test_the_kernels_are_part_of_the_key_where_they_matter(
    loaded: LoadedPipeline, references: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU nothing is native: the key is that of earlier versions. Where NVFP4 is native its
    pictures and keys are others, those of bf16 are shared, and with `emulate` pictures and keys are
    what they were, to the bit.
    """

    def made(**how: Any) -> Evaluator:
        return Evaluator(loaded, cache_folder=references, formats=(FormatName.NVFP4,), **how)

    evaluator = made()
    formats = dict(list(all_in(evaluator, FormatName.NVFP4).items())[:6])
    key, own = evaluator.key("search"), evaluator.evaluation_key("search")
    assert own == digest_of(key | {"distance": evaluator.distance.key, "emulation": 1})
    assert evaluator.execution.words == "by emulation"
    emulated = evaluator.generate_pictures(formats, "search")
    evaluator.close()
    with a_blackwell(monkeypatch):
        for emulate in (True, False):
            evaluator = made(emulate=emulate)
            assert evaluator.key("search") == key
            assert (evaluator.evaluation_key("search") == own) is emulate
            assert torch.equal(evaluator.generate_pictures(formats, "search"), emulated) is emulate
            assert evaluator.execution.summary_of(formats) == ("emulated" if emulate else "native")
            evaluator.close()


def test_a_score_has_the_error_of_the_latents(
    make: Make, references: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is that of what the VAE decodes, for each prompt; bf16's is 0, and its noise floor is that
    of the study's batches. References of an earlier version have no latents. Those that a search
    learns from get them, and keep their pictures; the others stay as they are.
    """
    evaluator = make(chunk=2)
    formats = all_in(evaluator, FormatName.NVFP4)
    score, media = evaluator.score(formats, "search"), evaluator.generate(formats, "search")
    (found,), (clean,) = media.latents, evaluator.references("search").latents
    ratios = (found.double() - clean.double()).flatten(1).norm(dim=1)
    ratios /= clean.double().flatten(1).norm(dim=1)
    assert score.latent is not None
    assert score.latent.per_prompt == pytest.approx(ratios.tolist(), rel=1e-4)
    assert score.latent.noise_floor is not None
    assert 0 <= score.latent.noise_floor < score.latent.mean
    bf16 = evaluator.score({}, "search")
    assert bf16.latent is not None
    assert set(bf16.latent.per_prompt) == {0.0}
    assert Score.from_json(score.to_json()) == score
    cache = ReferenceCache(references)
    for split, batch in (("search", 1), ("search", 2), ("held_out", 3)):
        evaluator.references(split, batch_size=batch)
        path = cache.path(evaluator.key(split, batch_size=batch))
        with safe_open(path, framework="pt") as file:
            key, pictures = file.metadata()["key"], file.get_tensor("pictures")
        digest = hashlib.sha256(pictures.numpy().tobytes()).hexdigest()
        save_file({"pictures": pictures}, path, metadata={"key": key, "sha256": digest})
    again = make(chunk=2)
    found = again.score(formats, "search")
    assert found.latent == replace(score.latent, noise_floor=None)
    assert replace(found, latent=None) == replace(score, latent=None)
    assert again.score({}, "held_out").latent is None
    monkeypatch.setattr(MediaGenerator, "generate", lambda *_a, **_k: pytest.fail("generated"))
    assert make(chunk=2).references("search").latents


def test_another_seed_is_an_anchor_and_kept(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The geometric mean of LPIPS between bf16 and bf16 with other seeds, of the first prompts; the
    next Evaluator reads the pictures from the cache.
    """
    evaluator = make(chunk=2)
    monkeypatch.setattr("sensitivity.fidelity.evaluator.OTHER_PROMPTS", 2)
    texts, seeds = (part[:2] for part in evaluator.prompts("search"))
    pictures = [
        evaluator.media_generator.generate_pictures(texts, [s + by for s in seeds], batch_size=2)
        for by in (0, OTHER_SEED)
    ]
    expected = evaluator.distance(pictures[1], pictures[0]).tolist()
    assert evaluator.other_seeds == pytest.approx(expected, rel=1e-4)
    anchor = evaluator.another_seed()
    assert anchor == pytest.approx((expected[0] * expected[1]) ** 0.5, rel=1e-3)
    again = make(chunk=2)
    monkeypatch.setattr(MediaGenerator, "generate", lambda *_a, **_k: pytest.fail("generated"))
    assert again.another_seed() == anchor


class Redness(PictureJudge):
    """How much redder a picture is."""

    name, made_by = "redness", "a toy"

    def compare(self, pictures: Tensor, references: Tensor) -> Tensor:
        return (pictures - references)[:, 0].mean((1, 2))


def test_judges_look_at_held_out_pictures_only_and_change_no_key(make: Make) -> None:
    """A score of held-out prompts has a value of each judge for each prompt, and its floor from
    bf16 one by one; a search score has none; the score and its key are the same without judges.
    """
    evaluator = make()
    formats, key = all_in(evaluator, FormatName.NVFP4), evaluator.evaluation_key("held_out")
    without = evaluator.score(formats, "held_out")
    evaluator.panel = Panel(JudgeWishes(asked=("none",)), prompts=evaluator.prompts("held_out")[0])
    evaluator.panel.add(Redness())
    judged = evaluator.score(formats, "held_out")
    assert replace(judged, judges={}) == without
    assert evaluator.evaluation_key("held_out") == key
    assert evaluator.score(formats, "search").judges == {}
    pictures = evaluator.generate_pictures(formats, "held_out").clamp(-1, 1)
    apart = (pictures - evaluator.references("held_out").pictures.clamp(-1, 1))[:, 0] / 2
    found = judged.judges["redness"]
    assert found.per_prompt == pytest.approx(apart.mean((1, 2)).tolist(), abs=1e-6)
    together, alone = (evaluator.references("search", batch_size=b).pictures for b in (None, 1))
    floor = ((alone.clamp(-1, 1) - together.clamp(-1, 1))[:, 0] / 2).mean()
    assert found.noise_floor == pytest.approx(float(floor), abs=1e-7)
