"""What a user asks for becomes a changed copy of the study, or is refused."""

from typing import Any

import pytest

from sensitivity.errors import UserError
from sensitivity.spec.overrides import (
    RunOptions,
    override_settings,
    random_notice,
    with_net,
    with_prompts,
    with_random_weights,
)
from sensitivity.spec.prompts import PromptSection
from sensitivity.spec.study_spec import ModelSection, SearchSection, StudySpec

TOY = StudySpec(name="toy", model=ModelSection(hub="a/b"))


@pytest.mark.parametrize(
    ("call", "settings"),
    [
        ({"guidance_scale": 3.5, "true_cfg_scale": 1.0}, {"guidance_scale": 2.0}),
        (
            {"guidance_scale": None, "true_cfg_scale": 4.0, "negative_prompt": None},
            {"true_cfg_scale": 2.0, "negative_prompt": " "},
        ),
        (
            {"guidance_scale": 4.0, "audio_guidance_scale": 7.0},
            {"guidance_scale": 2.0, "audio_guidance_scale": 2.0},
        ),
        (
            {"true_cfg_scale": 1.0, "negative_prompt": None},
            {"true_cfg_scale": 2.0, "negative_prompt": " "},
        ),
        ({"distilled_guidance_scale": 3.25}, {"distilled_guidance_scale": 2.0}),
    ],
    ids=["embedded", "two forwards", "with sound", "only true CFG", "distilled"],
)
def test_guidance_is_what_the_pipeline_calls_it(
    call: dict[str, object], settings: dict[str, object]
) -> None:
    """`guidance` sets the argument that guides this pipeline, and what comes with it."""
    found = override_settings(TOY, RunOptions(guidance=2.0), call, "ToyPipeline")
    assert found.settings == settings


@pytest.mark.parametrize("name", ["num_frames", "frames", "video_length"])
def test_frames_are_what_the_pipeline_calls_them(name: str) -> None:
    """`frames` sets the argument that this pipeline has."""
    found = override_settings(TOY, RunOptions(frames=9), {name: 81}, "ToyPipeline")
    assert found.settings == {name: 9}


def test_an_argument_of_another_name_is_near() -> None:
    """Where a pipeline has several arguments of a kind, the message names them."""
    call = {"prompt": None, "prior_guidance_scale": 4.0, "decoder_guidance_scale": 0.0}
    with pytest.raises(
        UserError, match="expected one of prior_guidance_scale, decoder_guidance_scale: set it in"
    ):
        override_settings(TOY, RunOptions(guidance=2.0), call, "ToyPipeline")


def test_set_takes_json_values_and_texts() -> None:
    """Numbers, truth values and words arrive with their types; later ones win over other fields."""
    options = RunOptions(height=64, settings=("a=1", "b=2.5", "c=true", "d=word", "height=32"))
    call = dict.fromkeys(("a", "b", "c", "d", "height"))
    found = override_settings(TOY, options, call, "ToyPipeline").settings
    assert found == {"height": 32, "a": 1, "b": 2.5, "c": True, "d": "word"}


def test_set_takes_lists_and_null() -> None:
    """`null` is None, and a text only in quotes; lists may hold lists."""
    options = RunOptions(settings=("a=null", 'b="null"', "c=[7, 7.5]", "d=[[1, 2]]"))
    found = override_settings(TOY, options, dict.fromkeys("abcd"), "ToyPipeline").settings
    assert found == {"a": None, "b": "null", "c": [7, 7.5], "d": [[1, 2]]}


def test_a_guidance_scale_replaces_a_scale_for_each_step() -> None:
    """Ideogram 4 takes either, and has the latter by default."""
    call = {"guidance_scale": None, "guidance_schedule": (7.0, 3.0)}
    found = override_settings(TOY, RunOptions(guidance=5.0), call, "ToyPipeline").settings
    assert found == {"guidance_scale": 5.0, "guidance_schedule": None}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "`batch_size` is 0; expected 1 or more"),
        ({"steps": 2**16 + 1}, "`steps` is 65537; expected 65536 or less"),
        ({"guidance": float("nan")}, "`guidance` is nan; expected 0 or more"),
        ({"frames": 9}, "`frames` sets num_frames, which the call of ToyPipeline does not have"),
        ({"settings": ("hieght=3",)}, "`settings` sets hieght, which .* expected one of height"),
        ({"settings": ("height",)}, "`settings` 'height'; expected KEY=VALUE"),
        ({"settings": ("height=[1, null]",)}, "has a list; expected a finite number"),
        ({"settings": ("height=[[[1]]]",)}, "has a list; expected a finite number"),
        ({"settings": ('height={"a": 1}',)}, "has a dict; expected a finite number"),
        ({"settings": ("height=Infinity",)}, "has inf; expected a finite number"),
    ],
)
def test_options_that_no_run_has_are_refused(options: dict[str, Any], message: str) -> None:
    """The message has the field, its value, and what was expected."""
    with pytest.raises(UserError, match=message):
        override_settings(TOY, RunOptions(**options), {"height": 64}, "ToyPipeline")


def test_another_net_is_asked_for_by_name() -> None:
    """`tiny` has the trunk of the package, others have none; unknown ones are refused."""
    tiny = with_net(TOY, "tiny")
    assert tiny.fidelity.weights is not None
    assert tiny.fidelity.weights.is_file()
    assert with_net(tiny, "vgg").fidelity.weights is None
    with pytest.raises(UserError, match="`net` is 'vit'; expected one of alex, vgg, squeeze, tiny"):
        with_net(TOY, "vit")


def test_random_weights_are_another_study() -> None:
    """The name and the notice say so; a study that has them stays as it is."""
    spec = with_random_weights(TOY, seed=3)
    assert (spec.name, spec.model.weights, spec.model.random_seed) == (
        "toy-random-weights",
        "random",
        3,
    )
    assert with_random_weights(spec) is spec
    assert random_notice(spec).startswith("toy-random-weights has RANDOM weights (seed 3)")


def test_other_prompts_have_their_own_order() -> None:
    """An order of the study's prompts says nothing about other ones."""
    two = PromptSection(search=("a", "b"), held_out=("c",))
    spec = StudySpec(name="toy", model=TOY.model, prompts=two, search=SearchSection(order=(1, 0)))
    other = with_prompts(spec, PromptSection(search=("d",), held_out=("e",)))
    assert (other.search.order, other.prompts.search) == ((), ("d",))
