"""Folders of score tables."""

import json
from pathlib import Path

from landscape_kinds import make
from score_tables import nth_list
from table_files import described_world, read_table, world_from

from sensitivity.search.candidates import baselines


def test_world_comes_back_from_its_json() -> None:
    """Groups, gains, lists by hand, sensitivities and bytes."""
    world = make("two formats", 0).world
    again = world_from(json.loads(json.dumps(described_world(world))))
    assert again == world


def test_a_table_is_read_from_rows_of_several_processes(tmp_path: Path) -> None:
    """Of equal choices the first counts; a line that a killed process left is passed over."""
    world = make("additive", 0).world
    choice = world.candidates.all_quantized()
    (tmp_path / "world.json").write_text(
        json.dumps(described_world(world) | {"model": "m", "floor": 1e-5, "machine": {}})
    )
    row = {"choice": choice, "kind": "all nvfp4", "search": [0.1], "fresh": [1, 2, 3], "latent": []}
    other = row | {"choice": world.candidates.rule_of_thumb, "fresh": [4, 5, 6]}
    (tmp_path / "rows-00.jsonl").write_text(json.dumps(row) + '\n{"choice": [1')
    (tmp_path / "rows-01.jsonl").write_text(
        json.dumps(row | {"fresh": [7, 8, 9]}) + "\n" + json.dumps(other) + "\n"
    )
    table = read_table(tmp_path)
    assert table.fresh.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert table.fitting.tolist() == [[1, 3], [4, 6]]
    assert table.judging.tolist() == [[2], [5]]
    assert table.latent.shape == (2, 0)
    assert table.choices.shape == (2, len(world.candidates.groups))


def test_lists_of_a_table_depend_on_their_number_alone() -> None:
    """First what people make by hand; then three kinds in turn, each group alone once."""
    world = make("two formats", 0).world
    by_hand = [choice for _, choice in baselines(world.candidates) if any(choice)]
    lists = [nth_list(world, i) for i in range(400)]
    assert [choice for _, choice in lists[: len(by_hand)]] == by_hand
    assert lists == [nth_list(world, i) for i in range(400)]
    alone = [choice for kind, choice in lists if kind == "alone"]
    assert len(alone) == len(set(alone)) == 108
    assert all(any(choice) for _, choice in lists if _ == "prefix")
    assert {kind for kind, _ in lists[3:]} == {"prefix", "random", "alone"}
