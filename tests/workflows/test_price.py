"""A skip file or a recipe has the price of its Linears and of the rest, and mistakes are said
before or after the run, never as a traceback.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sensitivity.core.assignment import Assignment
from sensitivity.core.format_name import FormatName
from sensitivity.core.step_policy import EdgeMode, StepPolicy
from sensitivity.errors import (
    FormatError,
    PatternError,
    RecipeMismatchError,
    SpecError,
    UserError,
)
from sensitivity.spec.loading import resolve_spec
from sensitivity.spec.overrides import RunOptions
from sensitivity.workflows.price import PriceRequest, Prices, price

DEAD = "no.such.*"


def priced(**request: Any) -> Prices:
    """tiny-flux, priced."""
    return price(resolve_spec("tiny-flux"), PriceRequest(**request))


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Prices:
    """Two files of one name beside each other, one of them partly dead, one empty."""
    folder = tmp_path_factory.mktemp("lists")
    texts = {
        "a/list.txt": "proj_out # the last\n*embed*\n",
        "b/list.txt": f"{DEAD}\nproj_out\n",
        "empty.txt": "# nothing\n",
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    paths = [folder / name for name in texts]
    return priced(skip=paths[0], compare=(*paths, paths[2]))


def test_the_rows_sum_to_the_total(compared: Prices) -> None:
    """Linears and one rest that no format changes make both totals, for every list."""
    rests = []
    for row in (compared.main, *compared.compared):
        data = row.estimate.to_json()
        linears = [
            sum(x["calls"] * x[key] for x in data["linears"]) / 1e6
            for key in ("bf16_us", "quantized_us")
        ]
        rests += [data["bf16_s"] - linears[0], data["quantized_s"] - linears[1]]
        assert data["speedup"] == data["bf16_s"] / data["quantized_s"]
    assert rests == pytest.approx([rests[0]] * len(rests))
    assert rests[0] > 0


def test_lists_stand_beside_their_bounds(compared: Prices) -> None:
    """None, all and the rule of thumb come first, then each file once; two of one name are told
    apart by their folders.
    """
    names = [row.name for row in compared.compared]
    assert names[:3] == ["none", "all", "rule of thumb"]
    assert [Path(name).name for name in names[3:]] == ["list.txt", "list.txt", "empty.txt"]
    assert len(set(names)) == 6
    by_name = {Path(row.name).parent.name + Path(row.name).name: row for row in compared.compared}
    assert by_name["empty.txt"].estimate == by_name["all"].estimate
    assert by_name["none"].estimate.speedup == pytest.approx(1)


def test_what_was_not_seen_is_reported(compared: Prices) -> None:
    """Patterns that match nothing, and Linears that the format refuses where no pattern skips them,
    stand in the record and its JSON.
    """
    assert compared.main.dead == ()
    assert [row.dead for row in compared.compared[3:]] == [(), (DEAD,), ()]
    everything = compared.compared[1]
    assert everything.quantized == len(everything.estimate.linears) - 2
    assert "x_embedder" in compared.compared[4].refused  # K = 16
    assert compared.main.refused == {}  # *embed* skips both
    assert list(priced().to_json()["refused"]) == [
        "time_text_embed.text_embedder.linear_1",
        "x_embedder",
    ]


def test_a_skip_file_that_matches_nothing_at_all_is_a_mistake(tmp_path: Path) -> None:
    """A list for another model would price everything quantized, so it is refused with a name that
    is there.
    """
    (tmp_path / "dead.txt").write_text("transformer_block.0.attn.to_q\n")
    message = (
        r"`skip` .*dead.txt: none of its 1 patterns matches .* tiny-flux.*such as"
        r" \w*transformer_blocks\.0\.attn\.to_q"
    )
    with pytest.raises(PatternError, match=message):
        priced(skip=tmp_path / "dead.txt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"\xff\xfe\x00", "not UTF-16 at position 2"),
        (b"proj out", "line 1: found the pattern 'proj out'"),
    ],
)
@pytest.mark.parametrize("name", ["skip", "compare"])
def test_a_file_that_is_no_list_is_named_with_its_field(
    name: str, content: bytes | None, message: str, tmp_path: Path
) -> None:
    """A missing, binary or malformed file is a mistake that names the field, the path and the
    reason.
    """
    path = tmp_path / "list.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PatternError, match=f"`{name}` .*list.txt.*{message}"):
        priced(**{name: path if name == "skip" else (path,)})


def test_a_folder_is_no_list(tmp_path: Path) -> None:
    """A folder as skip file is said to be one."""
    with pytest.raises(PatternError, match="found a folder; expected a regular file"):
        priced(skip=tmp_path)


def test_a_target_without_the_compared_format_refuses_before_the_run(tmp_path: Path) -> None:
    """H100 has no NVFP4: neither for the list itself nor for what stands beside it."""
    with pytest.raises(FormatError, match="h100 has no nvfp4"):
        priced(target="h100")
    (tmp_path / "list.txt").write_text("proj_out\n")
    assert (
        priced(
            target="h100", format=FormatName.FP8, compare=(tmp_path / "list.txt",)
        ).main.estimate.target
        == "h100"
    )


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf"), 1e-9, 1e9])
def test_an_anchor_that_cannot_be_is_refused(seconds: float) -> None:
    """Seconds that no such run takes are of another run."""
    with pytest.raises(UserError, match=r"measured bf16 run .*takes"):
        priced(bf16_seconds=seconds)


def test_an_anchor_is_the_total() -> None:
    """The bf16 total is what the caller measured, and the saving is scaled with its Linears."""
    free = priced().main.estimate
    anchored = priced(bf16_seconds=free.bf16_s * 1.1).main.estimate
    assert anchored.bf16_s == pytest.approx(free.bf16_s * 1.1)
    assert anchored.speedup == pytest.approx(free.speedup, rel=0.05)


def test_several_pictures_of_one_prompt_are_refused() -> None:
    """A search scores one picture of each prompt, so a price is not of several either; the message
    says what to set instead.
    """
    with pytest.raises(
        SpecError, match=r"num_images_per_prompt is 3; expected 1, .* set `batch_size`"
    ):
        priced(options=RunOptions(settings=("num_images_per_prompt=3",)))


def test_a_recipe_of_another_model_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recipe names every Linear of its model."""
    layers = {"some.linear": FormatName.NVFP4}
    recipe = SimpleNamespace(name="other", layers=layers, assignment=Assignment(layers))
    monkeypatch.setattr("sensitivity.workflows.price.load_recipe", lambda _path: recipe)
    with pytest.raises(RecipeMismatchError, match=r"'other' and tiny-flux differ in 89 Linears"):
        priced(recipe=tmp_path / "r.json")


@pytest.mark.parametrize("mode", list(EdgeMode))
def test_a_recipe_is_priced_with_its_step_policy(
    compared: Prices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: EdgeMode
) -> None:
    """With half of the steps in bf16 half of the saving is left; in A16 less than nothing is saved
    at them. The JSON has the policy, and none for a recipe without one.
    """
    table = compared.run.table
    steps = table.settings["num_inference_steps"]
    assert isinstance(steps, int)
    layers = dict.fromkeys(table.fqns, FormatName.BF16) | {"proj_out": FormatName.MXFP8}
    block = "transformer_blocks.0.ff.net.2"
    layers[block] = FormatName.NVFP4

    def of(policy: StepPolicy) -> dict[str, Any]:
        recipe = SimpleNamespace(
            name="mine", layers=layers, assignment=Assignment(layers, policy), caveat=""
        )
        monkeypatch.setattr("sensitivity.workflows.price.load_recipe", lambda _path: recipe)
        return priced(recipe=tmp_path / "r.json").to_json()

    plain, half = of(StepPolicy()), of(StepPolicy(first_steps=steps // 2, mode=mode))
    assert "step_policy" not in plain
    assert half["step_policy"] == {"first_steps": steps // 2, "last_steps": 0, "mode": mode}
    own, mixed = (
        next(row for row in data["linears"] if row["fqn"] == block) for data in (plain, half)
    )
    saved, left = (row["bf16_us"] - row["quantized_us"] for row in (own, mixed))
    if mode is EdgeMode.BF16:
        assert left == pytest.approx(saved / 2)
    else:
        assert left < saved / 2
