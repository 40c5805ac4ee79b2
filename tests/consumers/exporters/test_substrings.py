"""Substrings that hit exactly some Linears."""

from sensitivity.consumers.exporters.diffusers import DiffusersExporter
from sensitivity.consumers.exporters.substrings import exact_substrings

from support.recipes import FLUX_FQNS, flux_recipe


def test_parts_of_names_are_short_where_they_can_be() -> None:
    """Roles and blocks in one entry, whole names where a part hits more, the weight's name where
    the whole name hits more; each says what it hits.
    """
    roles = [fqn for fqn in FLUX_FQNS if fqn.endswith((".proj_mlp", "norm1.linear"))]
    assert exact_substrings(roles, FLUX_FQNS) == {
        "norm1": "12 Linears, first transformer_blocks.0.norm1.linear",
        "proj_mlp": "12 Linears, first single_transformer_blocks.0.proj_mlp",
    }
    assert list(
        exact_substrings([fqn for fqn in FLUX_FQNS if fqn.startswith("single")], FLUX_FQNS)
    ) == ["single_transformer_blocks"]
    assert exact_substrings(["proj_out"], FLUX_FQNS) == {
        "proj_out.weight": "this Linear; 'proj_out' hits 13"
    }
    assert exact_substrings(["single_transformer_blocks.1.proj_out"], FLUX_FQNS) == {
        "single_transformer_blocks.1.proj_out": "this Linear"
    }
    assert list(exact_substrings(["transformer_blocks.1.attn.to_q"], FLUX_FQNS)) == [
        "transformer_blocks.1.attn.to_q.weight"
    ]
    assert exact_substrings([], FLUX_FQNS) == {}
    assert exact_substrings(["0"], ["0", "1.0", "10"]) == {
        "0.weight": "this Linear; '0' hits 3"
    }  # a Sequential's
    assert '"proj_out.weight",  # this Linear; ' in DiffusersExporter(
        form="modules-to-not-convert"
    ).export(flux_recipe())
