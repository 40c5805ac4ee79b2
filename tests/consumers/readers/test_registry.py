"""The readers by name, and the form of a text."""

import json

import pytest

from sensitivity.consumers.readers import get_reader, guess_reader
from sensitivity.errors import PatternError


def test_the_form_is_recognised() -> None:
    """Texts of torchao and diffusers are told apart; anything else is globs; an unknown form has a
    suggestion.
    """
    config = {"_type": "FqnToConfig", "_data": {"fqn_to_config": {"a": None}}}
    diffusers = {
        "quant_method": "torchao",
        "quant_type": {"default": config},
        "modules_to_not_convert": None,
    }
    found = {
        json.dumps(text) if isinstance(text, dict) else text: name
        for text, name in [
            (config, "torchao"),
            ({"transformer": config}, "torchao"),
            (diffusers, "diffusers"),
            ({"transformer": diffusers}, "diffusers"),
            ({"_class_name": "X", "quantization_config": diffusers}, "diffusers"),
            ("proj_out\n", "glob"),
            ('["proj_out"]', "glob"),
            ("", "glob"),
        ]
    }
    assert {text: guess_reader(text).name for text in found} == found
    with pytest.raises(
        PatternError,
        match=r"found the form 'torch_ao'; expected one of fqn, .*; did you mean 'torchao'",
    ):
        get_reader("torch_ao")
