"""What a Linear's name says: block, stack and role, and the component where several are searched
together.
"""

import pytest

from sensitivity.core.fqns import (
    block_of,
    by_component,
    indices_of,
    is_in,
    list_of,
    role_of,
    stack_of,
    within,
)

UNET_BLOCK = "down_blocks.1.attentions.0.transformer_blocks.3"
NAMES = ("transformer", "transformer_2")


@pytest.mark.parametrize(
    ("fqn", "block", "role"),
    [
        ("transformer_blocks.3.attn.to_q", "transformer_blocks.3", "transformer_blocks.attn.to_q"),
        (
            "transformer_blocks.12.attn.to_out.0",
            "transformer_blocks.12",
            "transformer_blocks.attn.to_out.0",
        ),
        (
            "transformer_blocks.0.ff.net.0.proj",
            "transformer_blocks.0",
            "transformer_blocks.ff.net.0.proj",
        ),
        (
            "single_transformer_blocks.0.proj_out",
            "single_transformer_blocks.0",
            "single_transformer_blocks.proj_out",
        ),
        (
            "time_text_embed.timestep_embedder.linear_1",
            "",
            "time_text_embed.timestep_embedder.linear_1",
        ),
        (
            "down_blocks.1.attentions.0.transformer_blocks.3.attn1.to_out.0",
            UNET_BLOCK,
            "down_blocks.attentions.transformer_blocks.attn1.to_out.0",
        ),
        (
            "down_blocks.1.attentions.0.proj_in",
            "down_blocks.1.attentions.0",
            "down_blocks.attentions.proj_in",
        ),
        (
            "mid_block.resnets.1.time_emb_proj",
            "mid_block.resnets.1",
            "mid_block.resnets.time_emb_proj",
        ),
        (
            "up_blocks.0.temp_attentions.2.transformer_blocks.0.ff.net.2",
            "up_blocks.0.temp_attentions.2.transformer_blocks.0",
            "up_blocks.temp_attentions.transformer_blocks.ff.net.2",
        ),
        ("down_blocks.0.2.kv_mapper.1", "down_blocks.0.2", "down_blocks.kv_mapper.1"),
        ("encoder.block.0.layer.1.wo", "encoder.block.0", "encoder.block.layer.1.wo"),
        ("blocks.0.blocks.1", "blocks.0", "blocks.blocks.1"),
        ("heads.2", "heads.2", "heads"),
        ("0", "0", "0"),
        ("", "", ""),
    ],
)
def test_block_and_role(fqn: str, block: str, role: str) -> None:
    """The block ends at the first index, or at a later one that counts a list of blocks; the role
    leaves these out and keeps others.
    """
    assert (block_of(fqn), role_of(fqn)) == (block, role)


def test_a_blocks_name_has_lists_and_indices() -> None:
    """Lists with the outermost first, the innermost alone, and the numbers; a name without lists
    has none.
    """
    assert [f(UNET_BLOCK) for f in (stack_of, list_of, indices_of)] == [
        "down_blocks.attentions.transformer_blocks",
        "transformer_blocks",
        (1, 0, 3),
    ]
    assert [f("transformer_blocks.12") for f in (stack_of, list_of, indices_of)] == [
        "transformer_blocks",
        "transformer_blocks",
        (12,),
    ]
    assert [f("transformer_2.blocks.3") for f in (stack_of, list_of, indices_of)] == [
        "transformer_2.blocks",
        "blocks",
        (3,),
    ]
    assert [f("0") for f in (stack_of, list_of, indices_of)] == ["", "", (0,)]


@pytest.mark.parametrize(
    ("fqn", "component", "inside"),
    [
        ("transformer.proj_out", "transformer", "proj_out"),
        ("transformer_2.blocks.0.ff", "transformer_2", "blocks.0.ff"),
        ("transformer_2b.x", None, "transformer_2b.x"),
        ("transformer", None, "transformer"),
        ("x.transformer.y", None, "x.transformer.y"),
    ],
)
def test_a_name_begins_with_its_component(fqn: str, component: str | None, inside: str) -> None:
    """The component is the whole first part of a name of several; another part, or the beginning of
    one, is no component.
    """
    assert within(fqn, NAMES) == inside
    assert [name for name in NAMES if is_in(fqn, name)] == ([component] if component else [])
    assert within(fqn, ()) == fqn
    assert is_in(fqn, "")


def test_values_are_parted_by_component() -> None:
    """Each component has its own names in order, one without any is there; without components all
    are of the one that has no name.
    """
    values = {"transformer_2.a": 1, "transformer.a": 2, "transformer_2.b.0": 3}
    assert by_component(values, NAMES) == {
        "transformer": {"a": 2},
        "transformer_2": {"a": 1, "b.0": 3},
    }
    assert by_component({}, NAMES) == {"transformer": {}, "transformer_2": {}}
    assert by_component(values, ()) == {"": values}
