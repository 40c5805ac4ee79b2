"""Each prompt is encoded once, whatever the pipeline does around its encoders, and the denoiser
gets the same for it in every batch.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast

from sensitivity.models.loading import load_pipeline, text_call
from sensitivity.models.stand_in_tokenizer import StandInTokenizer
from sensitivity.models.text_memory import TextMemory
from sensitivity.spec.overrides import with_random_weights

from support.toy_pipelines import save_toy

WORDS = {"red": 3, "blue": 4, "ring": 5, "star": 6, "a": 7}


class Encoder(nn.Module):
    """Mixes the tokens that its mask leaves, and counts the rows that it encodes."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.rows = nn.Embedding(16, 8), 0

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, output_hidden_states: bool = False
    ) -> BaseModelOutputWithPast:
        """input_ids, attention_mask: (B, L)."""
        self.rows += len(input_ids)
        x = self.table(input_ids) * attention_mask[..., None]
        x = x + x.sum(1, keepdim=True)
        cache: Any = object()
        return BaseModelOutputWithPast(
            last_hidden_state=x,
            hidden_states=(x / 2, x) if output_hidden_states else None,
            past_key_values=cache,
        )


class Denoiser(nn.Module):
    """Keeps its arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """text: (B, L, D), mask: (B, L)."""
        self.seen.append((text.clone(), mask.clone()))
        return x


class Pipeline:
    """Pads to the longest prompt of the batch, encodes an empty prompt for guidance with it, and
    changes embeddings in place.
    """

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.encoder, self.denoiser = Encoder(), Denoiser()
        self.asked: list[Any] = []

    def __call__(self, prompts: list[str]) -> Tensor:
        ids = [
            [WORDS[word] for word in text.split()] or [1] for text in [""] * len(prompts) + prompts
        ]
        width = max(map(len, ids))
        padded = torch.tensor([row + [0] * (width - len(row)) for row in ids])
        mask = (padded > 0).long()
        out = self.encoder(padded, attention_mask=mask, output_hidden_states=True)
        self.asked.append(out)
        text = out.hidden_states[-1]
        text *= 2
        return self.denoiser(torch.zeros(len(text)), text, mask)


def remembering(pipe: Any) -> TextMemory:
    """A memory that answers calls of a pipeline's encoder."""
    return TextMemory({"encoder": pipe.encoder}, denoisers=[pipe.denoiser], device="cpu")


@pytest.fixture
def pipe() -> Pipeline:
    """A pipeline without a memory."""
    return Pipeline()


def test_a_prompt_is_encoded_once_and_is_the_same_in_every_batch(pipe: Pipeline) -> None:
    """After learning two prompts nothing is encoded again. In a padded batch each has the bits that
    it has alone, and zeros where it is padded.
    """
    plain = Pipeline()
    memory = remembering(pipe)
    for text in ("red ring", "a blue star"):
        memory.learn(text, lambda text=text: pipe([text]))  # type: ignore[misc]
        memory.learn(text, lambda: pytest.fail("learnt twice"))
    assert memory.works
    assert memory.answered == {"encoder"}
    assert pipe.encoder.rows == 4  # the empty prompt is padded as its neighbour is
    assert pipe.denoiser.seen == []  # learning ends before
    pipe(["a blue star", "red ring", "red ring"])
    plain(["red ring"]), plain(["a blue star"])
    assert pipe.encoder.rows == 4
    (text, mask), alone = (
        pipe.denoiser.seen[0],
        {
            "ring": plain.denoiser.seen[0][0],
            "star": plain.denoiser.seen[1][0],
        },
    )
    assert mask.sum(1).tolist() == [1, 1, 1, 3, 2, 2]
    assert torch.equal(text[3], alone["star"][1])
    for row in (4, 5):
        assert torch.equal(text[row, :2], alone["ring"][1])
        assert not text[row, 2:].any()
    assert torch.equal(text[0, :1], alone["star"][0, :1])


def test_answers_have_the_encoders_own_class(pipe: Pipeline) -> None:
    """An answer from memory has the class and the fields of the encoder's answer, without caches;
    its host memory is counted, shared tensors once.
    """
    memory = remembering(pipe)
    memory.learn("red ring", lambda: pipe(["red ring"]))
    pipe(["red ring"])
    out = pipe.asked[-1]
    assert type(out) is BaseModelOutputWithPast
    assert out.past_key_values is None
    assert [tuple(x.shape) for x in out.hidden_states] == [(2, 2, 8)] * 2
    assert memory.nbytes == 2 * (2 * 2 * 8 * 4)  # two rows of two different hidden states, fp32


def test_what_the_pipeline_changes_in_place_is_not_remembered(pipe: Pipeline) -> None:
    """The pipeline doubles the embeddings in place; three calls still give the same."""
    memory = remembering(pipe)
    memory.learn("red ring", lambda: pipe(["red ring"]))
    for _ in range(3):
        pipe(["red ring"])
    first, *others = (text for text, _ in pipe.denoiser.seen)
    assert all(torch.equal(first, other) for other in others)


def test_an_unknown_prompt_is_encoded_as_without_a_memory(pipe: Pipeline) -> None:
    """A batch with a prompt that was not learnt runs the encoder, as without a memory."""
    plain = Pipeline()
    remembering(pipe).learn("red ring", lambda: pipe(["red ring"]))
    for one in (pipe, plain):
        one(["red ring", "a star"])
    assert pipe.encoder.rows == 2 + 4
    assert torch.equal(pipe.denoiser.seen[0][0], plain.denoiser.seen[0][0])


class Noisy(Pipeline):
    """Adds random noise to the embeddings: token ids do not decide what the denoiser gets."""

    def __call__(self, prompts: list[str]) -> Tensor:
        ids = torch.tensor([[WORDS[word] for word in text.split()] for text in prompts])
        text = self.encoder(ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        return self.denoiser(torch.zeros(len(text)), text + torch.rand(()), ids)


class Peeking(Pipeline):
    """Uses an attribute of its encoder, which no call returns."""

    def __call__(self, prompts: list[str]) -> Tensor:
        ids = torch.tensor([[WORDS[word] for word in text.split()] for text in prompts])
        before = self.encoder.rows
        text = self.encoder(ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        return self.denoiser(torch.zeros(len(text)), text * (self.encoder.rows - before), ids)


class Wandering(Pipeline):
    """Encodes other ids in each call."""

    def __call__(self, prompts: list[str]) -> Tensor:
        ids = torch.full((len(prompts), 2), len(self.asked))
        self.asked.append(ids)
        text = self.encoder(ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        return self.denoiser(torch.zeros(len(text)), text, ids)


@pytest.mark.parametrize("kind", [Noisy, Peeking, Wandering])
def test_the_memory_closes_itself_where_it_does_not_see_everything(kind: type[Pipeline]) -> None:
    """Where the first prompt's second run differs from its first, the encoder runs in every call,
    as without a memory.
    """
    pipe = kind()
    memory = remembering(pipe)
    memory.learn("red ring", lambda: pipe(["red ring"]))
    assert not memory.works
    before = pipe.encoder.rows
    memory.learn("blue ring", lambda: pytest.fail("no use"))
    pipe(["red ring"])
    assert pipe.encoder.rows == before + 1
    assert "forward" not in pipe.encoder.__dict__


class Connected(Pipeline):
    """A second component changes the embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.connector = nn.Linear(8, 8)

    def __call__(self, prompts: list[str]) -> Tensor:
        ids = torch.tensor([[WORDS[word] for word in text.split()] for text in prompts])
        text = self.connector(
            self.encoder(ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        )
        return self.denoiser(torch.zeros(len(text)), text, ids)


def test_a_component_that_reads_embeddings_runs_in_every_call() -> None:
    """Only calls with token ids are remembered; a component that is given embeddings is listed in
    `passed`.
    """
    pipe = Connected()
    memory = TextMemory(
        {"encoder": pipe.encoder, "connector": pipe.connector},
        denoisers=[pipe.denoiser],
        device="cpu",
    )
    memory.learn("red ring", lambda: pipe(["red ring"]))
    assert (memory.works, memory.answered, memory.passed) == (True, {"encoder"}, {"connector"})


def test_an_error_of_the_pipeline_is_raised_again(pipe: Pipeline) -> None:
    """What the pipeline raises while a prompt is learnt is raised unchanged, and the memory goes on
    working.
    """
    memory = remembering(pipe)
    with pytest.raises(KeyError, match="cube"):
        memory.learn("red cube", lambda: pipe(["red cube"]))
    memory.learn("red ring", lambda: pipe(["red ring"]))
    pipe(["red ring"])
    assert (memory.works, pipe.encoder.rows, len(pipe.denoiser.seen)) == (True, 2, 1)


def first_call(pipe: Any, component: str, call: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the denoiser's first call: positional ones as "0", "1", ..."""
    seen: list[dict[str, Any]] = []

    class Enough(BaseException):
        pass

    def stop(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        seen.append({str(i): value for i, value in enumerate(args)} | kwargs)
        raise Enough

    hook = getattr(pipe, component).register_forward_pre_hook(stop, with_kwargs=True)
    try:
        with pytest.raises(Enough), torch.no_grad():
            pipe(**call)
    finally:
        hook.remove()
    return seen[0]


TEXT = {
    "qwen": ["encoder_hidden_states"],
    "sdxl": ["encoder_hidden_states", "added_cond_kwargs"],
    "hunyuan": ["encoder_hidden_states", "pooled_projections"],
    "lumina2": ["encoder_hidden_states"],
    "zimage": ["2"],
}
"""{toy: arguments of its denoiser that come from the text}. qwen, lumina2 and zimage pad to the
longest prompt, or not at all.
"""


@pytest.mark.parametrize("name", list(TEXT))
def test_real_pipelines_give_each_prompt_the_same_text_in_every_batch(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt alone gives the same bits as without a memory, and so does each row of a batch of
    different lengths, apart from its padding.
    """
    monkeypatch.setattr(
        StandInTokenizer, "_length", lambda self, text: self.dropped_tokens + 2 + len(str(text)) % 7
    )
    spec = with_random_weights(save_toy(name, tmp_path, steps=1))
    prompts, component = ["a cat", "an elephant"], spec.model.component
    plain = load_pipeline(spec, device="cpu", resident=True)
    loaded = load_pipeline(spec, device="cpu")
    loaded.remember(prompts)
    assert loaded.text is not None
    assert loaded.text.works
    batch = {"prompt": list(prompts)}  # Z-Image writes its template into the list that it is given
    both = first_call(loaded.pipe, component, text_call(spec, loaded.pipe, prompts[0]) | batch)
    for i, prompt in enumerate(prompts):
        alone = first_call(plain.pipe, component, text_call(spec, plain.pipe, prompt))
        again = first_call(loaded.pipe, component, text_call(spec, loaded.pipe, prompt))
        assert set(alone) == set(again) == set(both)
        for key in TEXT[name]:
            assert_same_rows(alone[key], again[key], both[key], i)


def assert_same_rows(alone: Any, again: Any, both: Any, i: int) -> None:
    """`again` equals `alone`: one row with and one without guidance. Rows i and 2 + i of `both`, a
    batch of two prompts, are the same rows with padding.
    """
    if isinstance(alone, dict):
        for key in alone:
            assert_same_rows(alone[key], again[key], both[key], i)
        return
    assert len(both) == 2 * len(alone)
    for half, row in enumerate(alone):
        assert torch.equal(row, again[half])
        batched = both[2 * half + i]
        assert torch.equal(row, batched[: len(row)] if row.ndim else batched)
