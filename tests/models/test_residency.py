"""A module's parameters are on its device while it is used, and on meta otherwise."""

import torch
from torch import Tensor, nn

from sensitivity.models.residency import OnDemandModule, host_copy, source_from


class Coder(nn.Module):
    """Two tied Linears and a buffer, with a method that pipelines call."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)
        self.second.weight = self.first.weight
        self.register_buffer("scale", torch.full((2,), 2.0))

    def decode(self, x: Tensor) -> Tensor:
        """x: (B, 2) -> (B, 2)."""
        return self.second(self.first(x)) * self.scale


def made() -> Coder:
    """The same weights each time."""
    torch.manual_seed(0)
    return Coder().requires_grad_(False)


def places(module: nn.Module) -> set[str]:
    """Where the parameters are."""
    return {p.device.type for p in module.parameters()}


def test_a_call_loads_the_parameters() -> None:
    """An unloaded module has its buffers, its device, and no values; a call of one of its methods
    or parts brings them back, to the last bit, and what was tied is tied again.
    """
    x = torch.ones(1, 2)
    for source in (host_copy(made()), source_from(made)):
        module, expected = made(), made().decode(x)
        on_demand = OnDemandModule(module, device="cpu", source=source, loaded=True)
        on_demand.unload()
        assert (on_demand.loaded, places(module)) == (False, {"meta"})
        assert module.device == torch.device("cpu")
        assert module.scale.tolist() == [2, 2]
        assert torch.equal(module.decode(x), expected)
        assert (on_demand.loaded, places(module)) == (True, {"cpu"})
        assert module.second.weight is module.first.weight
        on_demand.unload()
        module.first(x)
        assert places(module) == {"cpu"}


def test_a_loaded_module_is_not_loaded_again() -> None:
    """The source is asked once for each time that the module was unloaded."""
    asked = []

    def source() -> dict[str, Tensor]:
        asked.append(True)
        return dict(made().named_parameters(remove_duplicate=False))

    on_demand = OnDemandModule(made(), device="cpu", source=source, loaded=True)
    for unloads in range(3):
        for _ in range(2):
            on_demand.module.decode(torch.ones(1, 2))
        assert len(asked) == unloads
        on_demand.unload()


def test_a_closed_module_is_a_plain_one() -> None:
    """Its parameters are there, and nothing intercepts its calls."""
    module = made()
    on_demand = OnDemandModule(module, device="cpu", source=source_from(made), loaded=True)
    on_demand.unload()
    on_demand.close()
    assert places(module) == {"cpu"}
    assert "decode" not in vars(module)
    assert "forward" not in vars(module.first)
