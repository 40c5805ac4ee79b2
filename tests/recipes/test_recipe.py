"""Recipes: what is refused on reading, what survives a round trip, how they are written, and what
`apply` does to a model.
"""

import copy
import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from pydantic import ValidationError
from torch import nn

import sensitivity.recipes.recipe as recipe_module
from sensitivity.core import json_files as strict_json
from sensitivity.core.format_name import FormatName
from sensitivity.core.pattern_cover import compress
from sensitivity.errors import OutputError, RecipeError, RecipeMismatchError
from sensitivity.recipes.recipe import Recipe, load_recipe, recipe_json_schema


class TwoBlockNet(nn.Module):
    """Two blocks of two Linears and a small head: 5 Linears, all K and N multiples of 32."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"up": nn.Linear(32, 64), "down": nn.Linear(64, 32)}) for _ in range(2)
        )
        self.head = nn.Linear(32, 32, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (..., 32) -> (..., 32)."""
        for block in self.blocks:
            x = x + block["down"](block["up"](x))  # type: ignore[index]
        return self.head(x)  # type: ignore[no-any-return]


LAYERS = {
    "blocks.0.up": "mxfp8",
    "blocks.0.down": "bf16",
    "blocks.1.up": "mxfp8",
    "blocks.1.down": "bf16",
    "head": "mxfp8",
}


def make_data(**changes: Any) -> dict[str, Any]:
    """A recipe as parsed JSON, with top-level fields replaced."""
    latency = {
        "bf16_s": 3.0,
        "quantized_s": 2.0,
        "speedup": 1.5,
        "source": "predicted",
        "target": "b200",
        "batch_size": 1,
        "compile_mode": None,
        "stands_for": 1,
    }
    data: dict[str, Any] = {
        "schema_version": "1.0",
        "name": "toy-mxfp8-b200",
        "model": {
            "id": "toy",
            "revision": None,
            "pipeline_class": "ToyPipeline",
            "component": "transformer",
            "component_class": "TwoBlockNet",
            "components": {},
            "weights": "pretrained",
        },
        "layers": dict(LAYERS),
        "skip": ["blocks.0.down", "blocks.1.down"],
        "patterns": [{"pattern": "blocks.*.down", "reason": "costs quality"}],
        "latency": latency,
        "fidelity": {
            "lpips": {
                "mean": 0.15,
                "ci95": [0.1, 0.2],
                "net": "tiny",
                "noise_floor": 0.01,
                "prompts": ["a", "b"],
                "seeds": [1, 2],
                "per_prompt": [0.1, 0.2],
                "simultaneous": 1,
            },
            "frames": {"stride": 2, "lpips": [[0.1, 0.1], [0.1, 0.3]]},
            "motion": {"mean": 0.0, "noise_floor": None, "per_prompt": [0.0, 0.0]},
            "detail_db": {"mean": 0.3, "noise_floor": 0.1, "per_prompt": [0.2, 0.4]},
            "audio": {
                "mean": 0.5,
                "noise_floor": 0.2,
                "per_prompt": [0.5, 0.5],
                "weight": 0.5,
                "max_distance": None,
            },
        },
        "notice": None,
        "memory": {"bf16_bytes": 1000, "quantized_bytes": 600, "source": "predicted"},
        "block_patterns": {"ModuleDict": 1},
        "search": {
            "study": "toy",
            "budget": 50,
            "trials": 40,
            "stopped": 3,
            "sampler": "sweep",
            "seed": 0,
        },
        "choice": None,
        "verified": None,
        "environment": {"torch": "2.15", "gpu": None},
        "front": [{"name": "t7", "latency": dict(latency), "lpips": 0.15, "audio": 0.4}],
    }
    return {**data, **changes}


def make_recipe(**changes: Any) -> Recipe:
    """The same as a `Recipe`."""
    return Recipe.from_mapping(make_data(**changes))


def changed(path: str, value: Any) -> dict[str, Any]:
    """`make_data()` with the field at a dotted path replaced."""
    data = copy.deepcopy(make_data())
    *front, last = path.split(".")
    place = data
    for key in front:
        place = place[key]
    place[last] = value
    return data


# --- records --------------------------------------------------------------------------------------


def test_round_trip_keeps_everything(tmp_path: Path) -> None:
    """Loading what was saved gives an equal recipe, fields of a later version at every level
    included.
    """
    data = make_data(schema_version="1.7", later={"a": [1, 2.5, "é", None, True]})
    data["latency"]["std_s"] = 0.01
    data["fidelity"]["smell"] = {"ppm": 0.2}
    data["patterns"][0]["trial"] = 3
    first = Recipe.from_mapping(data)
    path = first.save(tmp_path / "r.json")
    assert load_recipe(path) == first
    assert json.loads(path.read_text(encoding="utf-8")) == data
    assert load_recipe(path).to_json() == path.read_text(encoding="utf-8")


def test_floats_survive_exactly(tmp_path: Path) -> None:
    """A float that has no short decimal form comes back the same bits."""
    data = make_data()
    data["latency"] |= {"bf16_s": 0.1 + 0.2, "quantized_s": 1 / 3, "speedup": (0.1 + 0.2) / (1 / 3)}
    path = Recipe.from_mapping(data).save(tmp_path / "r.json")
    assert load_recipe(path).latency.bf16_s.hex() == (0.1 + 0.2).hex()


def test_recipes_from_before_the_choice_was_kept_are_read() -> None:
    """Without `choice` and `simultaneous` a recipe is read: nothing is known of the choice, and its
    interval is that of one skip-list.
    """
    data = make_data()
    del data["choice"], data["fidelity"]["lpips"]["simultaneous"]
    recipe = Recipe.from_mapping(data)
    assert recipe.choice is None
    assert recipe.fidelity.lpips.simultaneous == 1
    choice = {"rule": "fastest", "max_lpips": 0.2, "first": "t7", "shortlist": ["t7", "t8"]}
    assert make_recipe(choice=choice).to_json().count('"t8"') == 1
    assert make_recipe(choice=choice).choice.max_lpips == 0.2  # type: ignore[union-attr]


def test_records_are_frozen() -> None:
    """A field cannot be assigned."""
    with pytest.raises(ValidationError, match="frozen"):
        make_recipe().name = "other"  # type: ignore[misc]


def test_other_major_is_refused_and_other_minor_is_read() -> None:
    """The major version decides, before any other field is looked at."""
    with pytest.raises(RecipeError, match=r"found schema_version '2\.0'; allowed are 1\.x; update"):
        Recipe.from_mapping({"schema_version": "2.0"})
    assert make_recipe(schema_version="1.99").schema_version == "1.99"
    for bad in ("1", "1.0.0", "x", "", 1.0, None):
        with pytest.raises(RecipeError, match="schema_version"):
            make_recipe(schema_version=bad)


@pytest.mark.parametrize(
    ("skip", "named"),
    [
        (["blocks.0.down"], r"differs from the bf16 layers in 1 \(blocks.1.down\)"),
        (["blocks.0.down", "blocks.1.down", "head"], r"1 \(head\)"),
        (["blocks.0.down", "blocks.1.down", "blocks.1.down"], r"1 \(blocks.1.down\)"),
        (["blocks.0.down", "blocks.1.down", "nope"], r"1 \(nope\)"),
    ],
)
def test_skip_is_exactly_the_bf16_layers(skip: list[str], named: str) -> None:
    """Missing, extra, repeated and unknown entries are refused by name."""
    with pytest.raises(RecipeError, match=named):
        make_recipe(skip=skip)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "latency.speedup",
            1.5001,
            r"latency: found speedup 1\.5001; bf16_s / quantized_s is 1\.5",
        ),
        ("latency.quantized_s", 0, "latency.quantized_s: Input should be greater than 0"),
        ("latency.bf16_s", "3.0", "latency.bf16_s: Input should be a valid number"),
        ("latency.bf16_s", True, "latency.bf16_s"),
        ("latency.bf16_s", float("nan"), "latency.bf16_s"),
        ("latency.source", "guessed", "Input should be 'predicted' or 'measured'"),
        ("latency.batch_size", 0, "latency.batch_size"),
        ("memory.bf16_bytes", 1.5, "memory.bf16_bytes"),
        ("memory.bf16_bytes", -1, "memory.bf16_bytes"),
        ("model.weights", "finetuned", "model.weights"),
        ("model.component", "os.system", "model.component"),
        ("fidelity.lpips.mean", float("inf"), "fidelity.lpips.mean"),
        ("fidelity.lpips.mean", 0.2, r"found mean 0\.2; per_prompt averages 0\.15"),
        ("fidelity.lpips.ci95", [0.2, 0.1], "the lower bound comes first"),
        ("fidelity.lpips.ci95", [0.1], "fidelity.lpips.ci95"),
        ("fidelity.lpips.seeds", [1], r"found \(2, 1, 2\) prompts, seeds, per_prompt"),
        ("environment.load", float("nan"), "JSON numbers are finite"),
        ("environment.name", "\ud800", "lone surrogate"),
        ("extra", object(), "found a object; JSON holds text"),
        ("extra", float("inf"), "JSON numbers are finite"),
        ("layers", {}, "found no layers"),
        ("layers.head", "int4", "layers.head"),
        ("layers", [], "layers"),
        ("latency.bf16_s", 10**400, "latency"),
        ("fidelity.lpips.per_prompt", [1e308, 1e308], "per_prompt averages inf"),
        ("patterns", [{"pattern": "a", "reason": ""}] * 1001, "at most 1000 items"),
        ("patterns", [{"pattern": "nothing.*", "reason": ""}], "which matches no layer"),
        (
            "patterns",
            [{"pattern": "*", "reason": ""}],
            r"matches quantized layers: 3 \(blocks.0.up, blocks.1.up, head\)",
        ),
        ("patterns", [{"pattern": "re:x", "reason": ""}], "not a regular expression"),
        (
            "front",
            [{"name": "a", "latency": {}, "lpips": 0}],
            r"front\.0\.latency\.bf16_s: Field required",
        ),
    ],
)
def test_wrong_fields_are_named(path: str, value: Any, message: str) -> None:
    """A wrong value is refused with the path of its field."""
    with pytest.raises(RecipeError, match=message):
        Recipe.from_mapping(changed(path, value))


@pytest.mark.parametrize(
    "fqn", ["../etc/passwd", "a/b", "a\nb", "a b", "", "a..b", "a.", "a" * 600, "re:.*", "a*"]
)
def test_insane_layer_names_are_refused(fqn: str) -> None:
    """Names that no module can have never reach a matcher, a file or a comment."""
    with pytest.raises(RecipeError, match="layers: found the layer"):
        make_recipe(layers={fqn: "bf16"}, skip=[fqn], patterns=[])


def test_missing_fields_are_counted() -> None:
    """An empty object is told how much it lacks."""
    with pytest.raises(
        RecipeError,
        match=r"found 10 wrong field\(s\), first name: Field required; model: Field required",
    ):
        Recipe.from_mapping({})


def test_patterns_of_compress_are_accepted() -> None:
    """The records that `compress` returns go in as they are."""
    assert (
        make_recipe(patterns=compress(make_recipe().skip, LAYERS)).patterns[0].pattern
        == "blocks.*.down"
    )


# --- files ----------------------------------------------------------------------------------------


def _with(raw: str) -> bytes:
    return (make_recipe().to_json().rstrip()[:-1] + f', "extra": {raw}}}').encode(
        "utf-8", "surrogatepass"
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (_with("NaN"), "found NaN; JSON numbers are finite"),
        (_with("-Infinity"), "found -Infinity"),
        (_with("1e999"), "found the number 1e999"),
        (_with("1" * 5000), "found an integer of 5000 digits"),
        (_with('{"a": 1, "b": 2, "a": 3}'), "found the key 'a' twice"),
        (_with('1, "skip": []'), "found the key 'skip' twice"),
        (_with('"\\ud800"'), "found a lone surrogate in"),
        (_with('{"\\udfff": 1}'), "found a lone surrogate in"),
        (_with("[" * 100 + "]" * 100), "nesting deeper than 64 levels"),
        (_with("[" * 90_000 + "]" * 90_000), "nesting deeper than 64 levels"),
        (_with("[" + "0," * 100_000 + "0]"), r"found 10\d+ values; allowed are 100000"),
        (_with('"\ud800"'), "not UTF-8 at position"),
        (b"", r"found no valid JSON at line 1, column 1"),
        (b"{} {}", "Extra data"),
        (b"[]", "found a list at the top"),
        (b"\xff\xfe{}", "not UTF-8 at position 0"),
        (b" " * (8 * 1024 * 1024 + 1), "found more than 8388608 bytes"),
    ],
    ids=range(17),
)
def test_files_that_are_not_strict_json_are_refused(
    tmp_path: Path, data: bytes, message: str
) -> None:
    """What two readers could read differently is an error that starts with the path."""
    path = tmp_path / "r.json"
    path.write_bytes(data)
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(str(path))


def test_unreadable_files_are_user_errors(tmp_path: Path) -> None:
    """A missing file and a folder are told with the path and the next step."""
    with pytest.raises(
        RecipeError,
        match=(
            r"nope\.json: found No such file or directory; a recipe is a readable JSON file; name"
            r" one from"
        ),
    ):
        load_recipe(tmp_path / "nope.json")
    with pytest.raises(RecipeError, match="found a folder; allowed is a regular file"):
        load_recipe(tmp_path)


def test_save_replaces_whole_files_and_follows_links(tmp_path: Path) -> None:
    """A save over an old file or a link leaves one complete file with the user's usual rights, and
    nothing else.
    """
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    real.write_text("old")
    link.symlink_to(real)
    assert make_recipe().save(link) == real
    assert link.is_symlink()
    assert load_recipe(real) == make_recipe()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["link.json", "real.json"]
    umask = os.umask(0)
    os.umask(umask)
    assert real.stat().st_mode & 0o777 == 0o666 & ~umask


def test_save_where_it_cannot(tmp_path: Path) -> None:
    """A missing folder, a folder in the file's place and a device are refused with the folder and
    the next step.
    """
    with pytest.raises(
        OutputError,
        match=(
            f"cannot write 'r.json' in the folder {tmp_path}/no: No such file.*create it, or name"
            " another"
        ),
    ):
        make_recipe().save(tmp_path / "no" / "r.json")
    with pytest.raises(OutputError, match="is not a regular file"):
        make_recipe().save(tmp_path)
    with pytest.raises(OutputError, match="/dev/null, which is not a regular file"):
        make_recipe().save("/dev/null")
    with pytest.raises(OutputError, match="cannot write"):
        make_recipe().save(tmp_path / "a\0b")


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_failed_save_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """When the disk fails before or at the rename, the old file stands and no temporary file
    remains.
    """
    path = tmp_path / "r.json"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(strict_json.os, failing, fail)
    with pytest.raises(OutputError, match="No space left on device"):
        make_recipe().save(path)
    monkeypatch.undo()
    assert [entry.name for entry in tmp_path.iterdir()] == ["r.json"]
    assert path.read_text() == "old"


def test_interrupted_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while writing removes the temporary file too."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(strict_json.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make_recipe().save(tmp_path / "r.json")
    assert list(tmp_path.iterdir()) == []


def test_save_refuses_what_load_would(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A recipe too large to read is not written."""
    monkeypatch.setattr(recipe_module, "MAX_BYTES", 100)
    with pytest.raises(RecipeError, match="allowed are 100; shorten front or per_prompt"):
        make_recipe().save(tmp_path / "r.json")
    assert list(tmp_path.iterdir()) == []


def test_committed_schema_is_current() -> None:
    """`recipe.schema.json` equals what the code says; regenerate it as the module's docstring
    tells.
    """
    committed = json.loads(Path(recipe_module.__file__).with_name("recipe.schema.json").read_text())
    assert committed == recipe_json_schema()


def test_schema_judges_like_the_models() -> None:
    """A saved recipe is valid under the JSON Schema, and one with a wrong word or a missing field
    is not.
    """
    schema = recipe_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(json.loads(make_recipe().to_json()))
    validator.validate(make_data(later=1))
    for path, value in (
        ("choice", {"rule": "best"}),
        ("latency.source", "guessed"),
        ("layers.head", "int4"),
        ("fidelity", {}),
        ("memory.bf16_bytes", -1),
    ):
        assert not validator.is_valid(changed(path, value))


def test_importing_loads_no_torch() -> None:
    """Reading recipes and naming exporters must be possible in a fast command line."""
    code = (
        "import sys, sensitivity.recipe, sensitivity.patterns, sensitivity.exporters as e;"
        " e.get_exporter('torchao'); "
    )
    code += "print(sorted(m for m in ('torch', 'torchao', 'diffusers') if m in sys.modules))"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


# --- apply ----------------------------------------------------------------------------------------


def _net() -> TwoBlockNet:
    torch.manual_seed(0)
    return TwoBlockNet().bfloat16().eval().requires_grad_(False)


def _plain(net: nn.Module) -> set[str]:
    return {
        fqn
        for fqn, m in net.named_modules()
        if isinstance(m, nn.Linear) and type(m.weight.data) is torch.Tensor
    }


@pytest.fixture
def blackwell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every device pass as one that has MXFP8: torchao quantizes weights on the CPU too, it
    only cannot multiply them.
    """
    from sensitivity.formats.registry import get_format

    monkeypatch.setattr(type(get_format("mxfp8")), "native_refusal", lambda _self, _device: None)


@pytest.mark.usefixtures("blackwell")
@pytest.mark.parametrize("emulate", [None, False])
@pytest.mark.parametrize("wrapped", [False, True])
def test_native_apply_quantizes_exactly_the_recipe(emulate: bool | None, wrapped: bool) -> None:
    """The pipeline's component, or the bare module, gets the recipe's formats and nothing else, and
    the report says so.
    """
    net = _net()
    report = make_recipe().apply(
        types.SimpleNamespace(transformer=net) if wrapped else net, emulate=emulate
    )
    assert _plain(net) == {"blocks.0.down", "blocks.1.down"}
    assert report.mode == "native"
    assert report.layers == LAYERS
    assert report.counts == {FormatName.MXFP8: 3, FormatName.BF16: 2}
    assert report.refused == {}


@pytest.mark.usefixtures("blackwell")
def test_a_recipe_is_applied_once() -> None:
    """Weights that are already quantized are refused."""
    net = _net()
    make_recipe().apply(net)
    with pytest.raises(
        RecipeMismatchError,
        match=r"found weights that are no plain tensors in 3 \(blocks.0.up, .*load the model again",
    ):
        make_recipe().apply(net)


def test_without_hardware_nothing_is_emulated_in_silence() -> None:
    """On a CPU the native path is refused before anything changes, and the message names the way
    out.
    """
    net = _net()
    for emulate in (None, False):
        with pytest.raises(RecipeError, match=r"found no native mxfp8 on cpu: .*pass emulate=True"):
            make_recipe().apply(net, emulate=emulate)
    assert len(_plain(net)) == 5


def test_emulation_goes_through_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    """`emulate=True` hands every layer's format to `Switch` and asks no hardware."""
    calls: list[tuple[nn.Module, dict[str, FormatName]]] = []

    class FakeSwitch:
        def __init__(self, module: nn.Module) -> None:
            self.module = module

        def set(self, formats: dict[str, FormatName]) -> None:
            calls.append((self.module, formats))

    fake = types.ModuleType("sensitivity.switch")
    fake.Switch = FakeSwitch  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sensitivity.switch", fake)
    net = _net()
    assert make_recipe().apply(net, emulate=True).mode == "emulated"
    assert calls == [(net, LAYERS)]


def test_emulation_computes_the_quantized_product() -> None:
    """With the real switch, outputs equal those of a net whose chosen Linears compute by the
    format's own emulation.
    """
    pytest.importorskip("sensitivity.switch")
    from sensitivity.formats.emulation import emulated_linear
    from sensitivity.formats.registry import get_format

    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(1)).bfloat16()
    net, fmt = _net(), get_format("mxfp8")
    plain = net(x)

    def linear(fqn: str, value: torch.Tensor) -> torch.Tensor:
        layer = net.get_submodule(fqn)
        if LAYERS[fqn] == "bf16":
            return nn.functional.linear(value, layer.weight, layer.bias)  # type: ignore[arg-type]
        return emulated_linear(value, fmt.quantize_weight(layer.weight), layer.bias, fmt)  # type: ignore[arg-type]

    expected = x
    for block in range(2):
        expected = expected + linear(f"blocks.{block}.down", linear(f"blocks.{block}.up", expected))
    expected = linear("head", expected)
    make_recipe().apply(net, emulate=True)
    assert torch.equal(net(x), expected)
    assert not torch.equal(plain, expected)


def test_other_class_is_refused() -> None:
    """The component's class name must be the recipe's."""
    with pytest.raises(
        RecipeMismatchError, match="found a Linear; the recipe 'toy-mxfp8-b200' is for TwoBlockNet"
    ):
        make_recipe().apply(nn.Linear(2, 2))


def test_pipeline_without_the_component_is_refused() -> None:
    """A pipeline must have the module that the recipe names."""
    with pytest.raises(
        RecipeMismatchError,
        match="found a SimpleNamespace without a module named 'transformer'; allowed is a pipeline",
    ):
        make_recipe().apply(types.SimpleNamespace(unet=_net()))


def test_missing_and_extra_linears_are_listed() -> None:
    """Both differences are named, ten at most, with the count."""
    net = _net()
    net.head = nn.Identity()  # type: ignore[assignment]
    net.more = nn.ModuleList(nn.Linear(32, 32) for _ in range(12))
    with pytest.raises(
        RecipeMismatchError,
        match=r"missing in the model 1 \(head\), extra 12 \(more.0, .*more.9 and 2 more\); .*again",
    ):
        make_recipe().apply(net, emulate=True)


def test_refused_shapes_and_dtypes_raise() -> None:
    """A layer that its format cannot take stops everything, with the format's reason."""
    net = _net()
    net.head = nn.Linear(33, 32).bfloat16()
    with pytest.raises(
        RecipeMismatchError,
        match=r"found Linears that their format refuses: 1 \(head in mxfp8: .*33",
    ):
        make_recipe().apply(net, emulate=True)
    with pytest.raises(
        RecipeMismatchError, match=r"format refuses: 3 .*float32.*load the model in bf16"
    ):
        make_recipe().apply(TwoBlockNet(), emulate=True)


@pytest.mark.usefixtures("blackwell")
def test_layers_left_unquantized_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that leaves a layer as it was, without a word, is found out."""
    import sensitivity.formats.native

    monkeypatch.setattr(sensitivity.native, "quantize_native", lambda _module, _formats: None)
    with pytest.raises(
        RecipeError,
        match=r"found Linears that stayed in bf16: 3 \(blocks.0.up, blocks.1.up, head\)",
    ):
        make_recipe().apply(_net())


def test_all_bf16_recipe_changes_nothing() -> None:
    """A recipe without quantized layers applies natively anywhere."""
    net, names = _net(), list(LAYERS)
    report = make_recipe(layers=dict.fromkeys(names, "bf16"), skip=names, patterns=[]).apply(net)
    assert report.counts == {FormatName.BF16: 5}
    assert len(_plain(net)) == 5


def test_compiled_modules_are_unwrapped() -> None:
    """`torch.compile(net)` prefixes names; the recipe finds the net inside."""
    with pytest.raises(RecipeError, match="found no native mxfp8 on cpu"):
        make_recipe().apply(torch.compile(_net()))
