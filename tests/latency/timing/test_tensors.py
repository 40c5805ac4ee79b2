"""Inputs are made from their description, and weights are counted as they are stored."""

import copy

import torch
from torch import nn

from sensitivity.latency.timing.tensors import materialize, stored_bytes

CPU = torch.device("cpu")


def test_real_tensors_keep_their_values_and_meta_tensors_get_some() -> None:
    """Ids and masks stay what they are; meta tensors become random in their own shape and dtype,
    the same each time; other values pass.
    """
    ids, mask = torch.arange(6).float(), torch.tensor([True, False])
    tree = {
        "ids": ids,
        "deep": [mask, torch.empty(64, 3, dtype=torch.bfloat16, device="meta")],
        "n": 3,
        "i": torch.empty(2, dtype=torch.int64, device="meta"),
    }
    found = materialize(tree, CPU)
    assert torch.equal(found["ids"], ids)
    assert torch.equal(found["deep"][0], mask)
    made = found["deep"][1]
    assert (made.shape, made.dtype) == ((64, 3), torch.bfloat16)
    assert 0.5 < float(made.float().std()) < 1.5
    assert torch.equal(materialize(tree, CPU)["deep"][1], made)
    assert found["n"] == 3
    assert found["i"].tolist() == [0, 0]


def test_weight_bytes_count_storage_once_and_inside_wrappers() -> None:
    """Tied weights count once, buffers count, and a quantized weight counts its codes and scales
    instead of its logical size.
    """
    from torchao.prototype.mx_formats.mx_tensor import MXTensor

    tied = nn.ModuleList([nn.Linear(64, 64, bias=False, dtype=torch.bfloat16) for _ in range(2)])
    tied[1].weight = tied[0].weight
    tied.register_buffer("table", torch.zeros(10))
    assert stored_bytes(tied) == 2 * 64 * 64 + 40
    tied[0].weight = nn.Parameter(
        MXTensor.to_mx(tied[0].weight.detach(), torch.float8_e4m3fn, 32), requires_grad=False
    )
    tied[1].weight = tied[0].weight
    assert stored_bytes(tied) == 64 * 64 + 64 * 64 // 32 + 40
    made = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
    assert stored_bytes(copy.deepcopy(made).to("meta")) == stored_bytes(made)
