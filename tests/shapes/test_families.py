"""Families that are fused, by name and by structure."""

import pytest

from sensitivity.shapes.families import families_in


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("to_query", "to_key", "to_value", "out_layer"), [("to_query", "to_key", "to_value")]),
        (
            ("to_q", "to_k", "to_v", "to_q_t", "to_k_t", "to_v_t"),
            [("to_q", "to_k", "to_v"), ("to_q_t", "to_k_t", "to_v_t")],
        ),
        (("linear_q", "linear_k", "linear_v"), [("linear_q", "linear_k", "linear_v")]),
        (("q", "k", "v", "o"), [("q", "k", "v")]),
        (("q_proj_cam", "k_proj_cam", "v_proj_cam"), [("q_proj_cam", "k_proj_cam", "v_proj_cam")]),
        (("to_added_q", "to_added_k", "to_added_v"), [("to_added_q", "to_added_k", "to_added_v")]),
        (("gate", "up", "down"), [("gate", "up")]),
        (("to_k", "to_v"), []),
        (("query_norm", "keys", "value_norm"), []),
    ],
)
def test_names_of_one_attention_are_a_family(
    names: tuple[str, ...], expected: list[tuple[str, ...]]
) -> None:
    """Names that differ in the word for q, k and v only; the halves of a gated MLP by name."""
    assert list(families_in([f"blocks.0.part.{name}" for name in names])) == expected


def test_a_family_is_of_one_module() -> None:
    """q of one module and k, v of another read different inputs."""
    assert families_in(["a.to_query", "b.to_key", "b.to_value"]) == ()
