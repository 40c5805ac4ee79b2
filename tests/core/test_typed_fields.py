"""Requests that are made in Python have the types that they declare, or are refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sensitivity.core.format_name import FormatName
from sensitivity.core.storage_url import StorageUrl
from sensitivity.errors import FormatError, UserError
from sensitivity.search.finished import Wanted
from sensitivity.search.proposers import SamplerName
from sensitivity.search.settings import SearchSettings
from sensitivity.spec.overrides import RunOptions
from sensitivity.workflows.calibrate import CalibrationRequest
from sensitivity.workflows.price import PriceRequest
from sensitivity.workflows.requests import SearchRequest, SelectRequest

NVFP4 = (FormatName.NVFP4,)
SERVER = StorageUrl.parse("postgresql://me@h/d")


@pytest.mark.parametrize(
    ("kind", "given", "typed"),
    [
        (SearchRequest, {"formats": ("nvfp4",)}, {"formats": NVFP4}),
        (SearchRequest, {"formats": "nvfp4"}, {"formats": NVFP4}),
        (SearchRequest, {"formats": ["nvfp4", "nvfp4"]}, {"formats": NVFP4}),
        (SearchRequest, {"sampler": "tpe"}, {"sampler": SamplerName("tpe")}),
        (SearchRequest, {"storage": "a/b.db"}, {"storage": Path("a/b.db")}),
        (SearchRequest, {"storage": "sqlite:///a.db"}, {"storage": Path("a.db")}),
        (SelectRequest, {"storage": "postgresql://me@h/d"}, {"storage": SERVER}),
        (CalibrationRequest, {"storage": SERVER}, {"storage": SERVER}),
        (SearchRequest, {"budget": np.int64(5)}, {"budget": 5}),
        (SearchRequest, {"max_lpips": 1}, {"max_lpips": 1.0}),
        (SelectRequest, {"cache_folder": "a"}, {"cache_folder": Path("a")}),
        (Wanted, {"formats": ["nvfp4"], "seed": "1"}, {"formats": NVFP4, "seed": 1}),
        (PriceRequest, {"format": "fp8", "compare": ["a"]}, {"compare": (Path("a"),)}),
        (CalibrationRequest, {"formats": ["nvfp4"]}, {"formats": NVFP4}),
        (RunOptions, {"settings": ["a=1"]}, {"settings": ("a=1",)}),
    ],
)
def test_a_text_becomes_what_it_names(kind: Any, given: Any, typed: dict[str, Any]) -> None:
    """A record that is made of texts and lists equals one that is made of the declared types, in
    value and in type.
    """
    made = kind(**given)
    assert made == kind(**{**given, **typed})
    for name, value in typed.items():
        assert getattr(made, name) == value
        assert type(getattr(made, name)) is type(value)
        if isinstance(value, tuple):
            assert [type(x) for x in getattr(made, name)] == [type(x) for x in value]


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (SearchRequest, {"formats": ("nvpf4",)}, "`format` 'nvpf4' is unknown"),
        (SearchRequest, {"granularity": "block"}, "`granularity` is 'block'; expected 'group' or"),
        (SearchRequest, {"budget": True}, "`budget` is True; expected another type than a bool"),
        (SearchRequest, {"seed": 1.5}, "`seed` is 1.5; expected a valid integer"),
        (SearchRequest, {"calibrated": "perhaps"}, "`calibrated` is 'perhaps'; expected a valid b"),
        (SearchRequest, {"sampler": "sobol"}, "`sampler` is 'sobol'; expected one of knapsack"),
        (SearchRequest, {"storage": 3}, "`storage` is 3; expected "),
        (PriceRequest, {"compile_mode": "max"}, "`compile_mode` is 'max'; expected 'reduce-over"),
        (PriceRequest, {"format": "int4"}, "`format` is 'int4'; expected 'bf16', 'mxfp8'"),
        (RunOptions, {"steps": True}, "`steps` is True"),
        (SearchSettings, {"formats": NVFP4, "target": 5, "budget": 1}, "`target` is 5; expected"),
    ],
)
def test_another_value_is_refused_with_its_field(kind: Any, given: Any, message: str) -> None:
    """The message has the field, the value and what was expected."""
    with pytest.raises((UserError, FormatError)) as caught:
        kind(**given)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "field", "url"),
    [
        (SearchRequest, "storage", "mysql://me:hunter2@host/db"),
        (SelectRequest, "storage", Path("postgresql://me:hunter2@host/db")),
        (CalibrationRequest, "cache_folder", "s3://hunter2/references"),
        (PriceRequest, "compare", ["a.json", "https://host/hunter2.json"]),
    ],
)
def test_a_url_is_no_path(kind: Any, field: str, url: Any) -> None:
    """A URL is refused by its scheme, also where a `Path` took one of its slashes; what follows
    may be a password and is not shown.
    """
    with pytest.raises(UserError, match=rf"`{field}` is a \S+:// URL.*; expected") as caught:
        kind(**{field: url})
    assert "hunter2" not in str(caught.value)
