"""Several copies of a denoiser share its weights, and torch's graphs of one are not another's."""

import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from sensitivity.models.compiled_regions import compile_denoiser, restore_denoiser
from sensitivity.models.denoisers import joined, parts_of
from sensitivity.models.shared_copies import shared_copy, shares_code

from support.small_denoisers import tiny_flux, tiny_flux_inputs, two_kinds


def test_a_copy_has_modules_of_its_own_on_the_same_weights() -> None:
    """A real denoiser's copy gives its outputs bit for bit and keeps the names of its classes; a
    parameter that is replaced in one stays in the other.
    """
    flux = tiny_flux()
    twin = shared_copy(flux)
    for (name, own), (other, theirs) in zip(
        flux.named_parameters(), twin.named_parameters(), strict=True
    ):
        assert name == other
        assert own is theirs
    assert [type(m).__name__ for m in twin.modules()] == [type(m).__name__ for m in flux.modules()]
    with torch.no_grad():
        before = flux(**tiny_flux_inputs())[0]
        assert torch.equal(twin(**tiny_flux_inputs())[0], before)
        twin.proj_out.weight = nn.Parameter(torch.zeros_like(flux.proj_out.weight))
        assert torch.equal(flux(**tiny_flux_inputs())[0], before)
        assert not torch.equal(twin(**tiny_flux_inputs())[0], before)


def test_each_copy_has_its_own_graphs() -> None:
    """Each copy is compiled anew, once for each class of blocks, and none is compiled again when
    they are called in turns.
    """
    first = two_kinds()
    copies, graphs = [first, shared_copy(first), shared_copy(first)], CompileCounter()
    x = torch.ones(4, 16, dtype=torch.bfloat16)
    torch._dynamo.reset()
    with torch.no_grad():
        for n, copy in enumerate(copies, 1):
            compile_denoiser(copy, compile_mode="default", backend=graphs)
            copy(x)
            assert graphs.frame_count == 2 * n
        with torch._dynamo.config.patch(recompile_limit=1, fail_on_recompile_limit_hit=True):
            for copy in reversed(copies):
                copy(x)
    assert graphs.frame_count == 2 * len(copies)
    assert shared_copy(first).wide_blocks[0]._compiled_call_impl is None
    restore_denoiser(first)


def test_joined_denoisers_are_copied_as_one() -> None:
    """The parts of a copy are parts of their own, under the same names."""
    both = joined({"transformer": two_kinds(), "transformer_2": two_kinds()})
    twins = parts_of(shared_copy(both))
    assert list(twins) == ["transformer", "transformer_2"]
    for name, part in parts_of(both).items():
        assert twins[name] is not part
        assert twins[name].proj_out.weight is part.proj_out.weight


def test_a_decorated_forward_may_share_graphs() -> None:
    """torch may skip a decorator, so that copies share what is inside it."""
    made = two_kinds()
    assert not shares_code(made)

    class Decorated(type(made)):  # type: ignore[misc]
        forward = torch.no_grad()(type(made).forward)

    assert shares_code(Decorated())
