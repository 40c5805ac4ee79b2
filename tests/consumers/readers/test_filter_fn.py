"""Filter functions: they run only when that is asked for, and as torchao runs them."""

from pathlib import Path

import pytest
from torch import nn

from sensitivity.consumers.lists import ModelTree
from sensitivity.consumers.readers import get_reader
from sensitivity.consumers.readers.filter_fn import FilterFnReader
from sensitivity.core.format_name import FormatName
from sensitivity.errors import PatternError

from support.fqn_configs import INSIDE, TREE, chosen
from support.namesakes import SmallNamesakeNet, mx_config, quantized_types

BF16, MXFP8, NVFP4, FP8 = FormatName.BF16, FormatName.MXFP8, FormatName.NVFP4, FormatName.FP8


FILTERS = """\
import dataclasses
from torch import nn

@dataclasses.dataclass
class Limits:
    least: int = 64

def wide(module, fqn):
    is_wide = isinstance(module, nn.Linear) and module.in_features >= Limits().least
    return is_wide and "proj_out" not in fqn

def unguarded(module, fqn):
    return "blocks" in fqn

def needy(module, fqn):
    return isinstance(module, nn.Linear) and module.heads > 1

NUMBER = 3
"""


@pytest.fixture
def filters(tmp_path: Path) -> Path:
    path = tmp_path / "my_filters.py"
    path.write_text(FILTERS)
    return path


def test_no_code_runs_unless_it_is_asked_for(tmp_path: Path) -> None:
    """The default reader runs no code; its message says how to allow it."""
    ran = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(ran)!r}, 'w')\ndef f(module, fqn): return True\n")
    with pytest.raises(
        PatternError,
        match=r"Python code that would have to be run.*`allow_code`",
    ):
        get_reader("filter-fn").read(f"{tmp_path / 'evil.py'}:f")
    assert not ran.exists()
    FilterFnReader(allow_code=True).read(f"{tmp_path / 'evil.py'}:f")
    assert ran.exists()


@pytest.mark.parametrize("by", ["file", "module"])
def test_a_filter_chooses_what_torchao_lets_it_choose(
    filters: Path, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a file, or a module in the working directory: the real `quantize_` quantizes the same
    Linears.
    """
    from torchao.quantization import quantize_

    monkeypatch.chdir(filters.parent)
    listed = FilterFnReader(allow_code=True).read(
        f"{filters if by == 'file' else 'my_filters'}:wide\n"
    )
    net = SmallNamesakeNet()
    net.blocks[1]["q"] = nn.Linear(128, 32).bfloat16()
    net.proj_out = nn.Linear(128, 32).bfloat16()
    shapes = {
        fqn: (child.in_features, child.out_features)
        for fqn, child in net.named_modules()
        if isinstance(child, nn.Linear)
    }
    quantize_(net, mx_config(), filter_fn=listed.function)
    assert (
        chosen(listed, ModelTree(fqns=INSIDE, shapes=shapes))
        == set(quantized_types(net))
        == {"blocks.1.q"}
    )
    assert listed.entries == ()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("my_filters.py", "expected module:function or path/to/file.py:function"),
        ("my_filters.py:wide()", "expected module:function"),
        (
            "my_filters.py:narrow",
            r"found no function 'narrow' in .*; expected one of wide, unguarded, needy",
        ),
        ("my_filters.py:NUMBER", "found no function 'NUMBER'"),
        ("nowhere.py:f", r"cannot be imported \(FileNotFoundError"),
        ("no_such_module_at_all:f", r"cannot be imported \(ModuleNotFoundError"),
        ("exits.py:f", r"cannot be imported \(SystemExit: 3\)"),
    ],
)
def test_filters_that_cannot_be_had(
    filters: Path, source: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says what is wrong; a file that exits does not end the program."""
    monkeypatch.chdir(filters.parent)
    Path("exits.py").write_text("raise SystemExit(3)")
    with pytest.raises(PatternError, match=message):
        FilterFnReader(allow_code=True).read(source)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "unguarded",
            "chooses the module 'blocks', which is no Linear; torchao's quantize_ fails there",
        ),
        (
            "needy",
            (
                r"fails on the Linear blocks.0.q \(K = 32, N = 32\) with AttributeError: 'Linear'"
                r" object has no attribute 'heads'"
            ),
        ),
    ],
)
def test_filters_that_fail(filters: Path, name: str, message: str) -> None:
    """A filter that torchao would fail on, or that wants more than a Linear's sizes, is refused
    with the module's name.
    """
    listed = FilterFnReader(allow_code=True).read(f"{filters}:{name}")
    with pytest.raises(PatternError, match=message):
        listed.assign(
            ModelTree(fqns=INSIDE, shapes=dict.fromkeys(INSIDE, (32, 32))), quantized=NVFP4
        )


def test_a_filter_needs_shapes(filters: Path) -> None:
    """A Linear whose K and N are not known is named in the message."""
    with pytest.raises(PatternError, match=r"found no K and N of blocks\.0\.q"):
        FilterFnReader(allow_code=True).read(f"{filters}:wide").assign(TREE, quantized=NVFP4)
