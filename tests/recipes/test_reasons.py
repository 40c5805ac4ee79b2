"""Why a Linear stays bf16: one reason a pattern, exactly the bf16 Linears, sums over Linears."""

from sensitivity.core.format_name import FormatName
from sensitivity.core.patterns import match
from sensitivity.recipes.reasons import Worth, patterns_with_reasons

BF16, NVFP4 = FormatName.BF16, FormatName.NVFP4
FORMATS = {
    "embed": BF16,
    **{f"blocks.{i}.{name}": BF16 for i in range(3) for name in ("norm", "to_q", "up")},
    **{f"blocks.{i}.down": NVFP4 for i in range(3)},
    "head": BF16,
}
"""Of three blocks only `down` is quantized."""


def test_each_pattern_has_the_reason_of_all_that_it_matches() -> None:
    """Reasons that differ in block numbers are one; shares and seconds add up over a pattern; what
    nobody gives a reason for says what it covers.
    """
    fixed = {f"blocks.{i}.norm": f"fused with blocks.{i}.x, of which K = 48" for i in range(3)}
    worth = {f"blocks.{i}.to_q": Worth(share=0.06, saved_s=1e-4) for i in range(3)}
    worth |= {f"blocks.{i}.up": Worth(share=0.001, saved_s=-2e-5) for i in range(3)}
    worth["head"] = Worth(share=None, saved_s=5e-4)
    found = patterns_with_reasons(FORMATS, fixed=fixed, worth=worth)
    assert [(entry.pattern, entry.reason) for entry in found] == [
        ("embed", "this Linear"),
        ("blocks.*.norm", "fused with blocks.x, of which K = 48"),
        ("blocks.*.to_q", "18 % of the damage for 0.3 ms"),
        ("blocks.*.up", "under 1 % of the damage and 0.06 ms slower quantized"),
        ("head", "kept by the search for 0.5 ms"),
    ]
    hit = {fqn for entry in found for fqn in match(entry.pattern, FORMATS)}
    assert hit == {fqn for fqn, name in FORMATS.items() if name is BF16}


def test_patterns_never_mix_reasons() -> None:
    """One block that is kept for another reason makes two patterns of a role."""
    fixed = {f"blocks.{i}.norm": "norms" for i in (0, 1)} | {"blocks.2.norm": "K = 48"}
    found = patterns_with_reasons(FORMATS, fixed=fixed)
    norms = {entry.pattern: entry.reason for entry in found if "norm" in entry.pattern}
    assert norms == {"blocks.[01].norm": "norms", "blocks.2.norm": "K = 48"}
