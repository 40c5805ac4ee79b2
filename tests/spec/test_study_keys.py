"""Any key of a study can be set, and each says where its value comes from."""

from typing import Any

import pytest

from sensitivity.errors import UserError
from sensitivity.spec.loading import bare_spec, resolve_spec
from sensitivity.spec.overrides import RunOptions, override_settings, study_keys
from sensitivity.spec.study_keys import effective_keys, with_keys
from sensitivity.spec.study_spec import ModelSection, StudySpec

LTX2 = resolve_spec("ltx2")


def test_a_key_is_set_and_nothing_else() -> None:
    """The study has the new values and is otherwise the same; its prompts keep their source."""
    found = with_keys(LTX2, {"search.chunk": 1, "fidelity.audio_weight": 0, "settings.height": 64})
    assert (found.search.chunk, found.fidelity.audio_weight) == (1, 0)
    assert found.settings == LTX2.settings | {"height": 64}
    assert found.prompts.source is LTX2.prompts.source
    back = {"search.chunk": None, "fidelity.audio_weight": 0.5, "settings.height": 512}
    assert with_keys(found, back) == LTX2
    assert with_keys(LTX2, {}) is LTX2
    assert with_keys(bare_spec("x", ModelSection(hub="a/b")), {"search.chunk": 2}).bare


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "search.chnk",
            4,
            r"search\.chnk; expected one of batch_size, chunk,.*did you mean 'chunk'",
        ),
        ("serch.chunk", 4, r"expected a section of a study, one of model, .*did you mean 'search'"),
        ("search.chunk", 5, r"expected 1 to `search.batch_size` \(1\)"),
        ("search.depth_bands", "many", "search.depth_bands: .*valid integer"),
        ("pricing.batch_size", 0, "greater than or equal to 1"),
        ("model.path", "/x", "both `path` and `hub`"),
    ],
)
def test_what_no_toml_may_have_is_refused(key: str, value: Any, message: str) -> None:
    """A key that is not there, or a value that it cannot have, as in a study TOML."""
    with pytest.raises(UserError, match=message):
        with_keys(LTX2, {key: value})


def test_run_options_set_keys_and_arguments() -> None:
    """A key with a section is the study's, one without is an argument of the call; `settings.` in
    front of an argument changes nothing.
    """
    toy = StudySpec(name="toy", model=ModelSection(hub="a/b"))
    texts = ("search.chunk=4", "settings.eta=0.5", "pricing.target=h100", "search.fused=[]")
    found = override_settings(toy, RunOptions(settings=texts), {"eta": 0.0}, "Toy")
    assert found.settings == {"eta": 0.5}
    assert (found.search.chunk, found.search.fused, found.pricing.target) == (4, (), "h100")
    assert list(study_keys(texts)) == ["search.chunk", "pricing.target", "search.fused"]
    for text in ("search.=4", "a.b.c=1", ".chunk=1"):
        with pytest.raises(UserError, match="expected KEY=VALUE"):
            study_keys([text])


def test_each_value_says_where_it_comes_from() -> None:
    """Stated in the TOML, left to the default, or set; every key of every section is there once."""
    changed = with_keys(LTX2, {"search.depth_bands": 2})
    keys = {entry.key: entry for entry in effective_keys(changed, set_keys=["search.depth_bands"])}
    assert (keys["search.batch_size"].value, keys["search.batch_size"].origin) == (1, "the study")
    assert (keys["pricing.prompt_tokens"].value, keys["pricing.prompt_tokens"].origin) == (
        14,
        "default",
    )
    assert (keys["search.depth_bands"].value, keys["search.depth_bands"].origin) == (2, "set")
    assert keys["search.order"].origin == "default"
    assert keys["settings.num_frames"].value == 121
    assert effective_keys(LTX2, derived=True)[2].origin == "derived"
