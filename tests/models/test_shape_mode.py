"""Modules with meta weights run with values where they are cheap, and what they do is counted."""

import torch
from torch import nn
from torch.nn.attention import flex_attention

from sensitivity.models.meta_tensors import REAL_ELEMENTS
from sensitivity.models.shape_mode import ShapeMode


def test_values_stay_where_they_are_cheap() -> None:
    """What touches no weight is real; masks select as many rows as they have; what has no value
    answers as the module says.
    """
    linear = nn.Linear(4, 3, device="meta")
    mask = torch.tensor([[True, True, False], [True, False, False]])
    with torch.no_grad(), ShapeMode() as mode, mode.counting("net"):
        y = linear(torch.zeros(2, 3, 4))
        assert y.is_meta
        assert y[mask].shape == (3, 3)
        assert y.to("cpu").is_meta
        assert torch.arange(3, device=y.device).tolist() == [0, 1, 2]
        assert torch.tensor([1.5], device=y.device).item() == 1.5
        assert y.new_ones(2).tolist() == [1, 1]
        assert mask.to(y.device).sum().item() == 3
        assert torch.zeros(REAL_ELEMENTS + 1, device=y.device).is_meta
        assert not torch.isnan(y).any()
        assert torch.isfinite(y).all()
        kept = torch.zeros(2, 3, 3)
        kept.copy_(y)
        assert not kept.is_meta
        with torch.autocast(y.device.type, enabled=False):
            pass
    assert mode.tally["net"]["linear_flops"] == 2 * 6 * 4 * 3


def test_values_that_nobody_keeps_are_not_computed() -> None:
    """Noise of terabytes and a mask of a million times a million tokens cost nothing."""
    with torch.no_grad(), ShapeMode():
        noise = torch.randn(10**6, 10**6, generator=torch.Generator().manual_seed(0), device="cpu")
        ids = torch.arange(10**6)
        mask = ids[:, None] <= ids[None, :]
        expanded = ids[:, None].expand(-1, 10**6) + 1
    assert [x.is_meta for x in (noise, ids, mask, expanded)] == [True, False, True, True]
    assert [tuple(x.shape) for x in (noise, mask, expanded)] == [(10**6, 10**6)] * 3


def test_choices_are_balanced() -> None:
    """Which of several values are the largest only weights know: each is chosen equally often, and
    no row chooses one twice. Along any axis, and in an order.
    """
    scores = torch.empty(10, 4, device="meta")
    with torch.no_grad(), ShapeMode() as mode, mode.counting("net"):
        values, chosen = scores.topk(2, dim=-1)
        assert values.is_meta
        assert chosen.flatten().bincount().tolist() == [5, 5, 5, 5]
        assert all(len(set(row)) == 2 for row in chosen.tolist())
        assert scores.topk(3, dim=0).indices.shape == (3, 4)
        order = scores.argsort(dim=-1, descending=True)
        assert order[:4, 0].tolist() == [0, 1, 2, 3]
        assert sorted(order[3].tolist()) == [0, 1, 2, 3]
        assert torch.empty(REAL_ELEMENTS, 4, device="meta").topk(2).indices.is_meta
    assert mode.routing == {"net": {(2, 4), (3, 10)}}


def test_flexible_attention_is_one_kernel() -> None:
    """torch refuses it on meta; it counts as attention without a mask."""
    query, key = (torch.empty(1, 2, n, 16, device="meta") for n in (5, 7))
    with torch.no_grad(), ShapeMode() as mode, mode.counting("net"):
        assert flex_attention.flex_attention(query, key, key).shape == (1, 2, 5, 16)
        assert torch.quantile(query, 0.5, dim=-1).shape == (1, 2, 5)
    assert mode.tally["net"]["attention", 1, 2, 5, 7, 16] == 1
    assert "meta" not in flex_attention.flex_attention.__name__


def test_convolutions_and_attention_are_counted() -> None:
    """MACs of convolutions, plain, grouped and transposed, and the shape of attention with fewer
    key heads.
    """
    with torch.no_grad(), ShapeMode() as mode, mode.counting("net"):
        nn.Conv2d(4, 6, 3, groups=2, device="meta")(torch.zeros(1, 4, 5, 5))
        nn.ConvTranspose1d(4, 6, 2, stride=2, device="meta")(torch.zeros(1, 4, 5))
        q, k = torch.empty(2, 8, 5, 16, device="meta"), torch.empty(2, 2, 7, 16, device="meta")
        out = nn.functional.scaled_dot_product_attention(q, k, k, enable_gqa=True)
    assert out.shape == (2, 8, 5, 16)
    assert mode.tally["net"]["conv_flops"] == 2 * 9 * 6 * 2 * 9 + 2 * 5 * 4 * 6 * 2
    assert mode.tally["net"]["attention", 2, 8, 5, 7, 16] == 1


def test_products_and_eager_kernels_are_counted() -> None:
    """A matrix product by its FLOP; an addition by what it reads and writes, an expanded axis once;
    a lookup by its rows and indices; a view not at all.
    """
    with torch.no_grad(), ShapeMode() as mode:
        x, row = torch.empty(4, 8, device="meta"), torch.empty(1, 8, device="meta").expand(4, 8)
        table, ids = torch.empty(100, 8, device="meta"), torch.zeros(4, dtype=torch.int64)
        for name, run in (
            ("product", lambda: x @ x.T),
            ("sum", lambda: x + row),
            ("lookup", lambda: nn.functional.embedding(ids, table)),
            ("view", lambda: x.view(8, 4)),
        ):
            with mode.counting(name):
                run()
    assert mode.tally["product"] == {"kernels": 1, "matmul_flops": 2 * 4 * 8 * 4}
    assert mode.tally["sum"] == {"kernels": 1, "eager_bytes": 4 * (4 * 8 + 8 + 4 * 8)}
    assert mode.tally["lookup"] == {"kernels": 1, "eager_bytes": 2 * 4 * 4 * 8 + 8 * 4}
    assert mode.tally["view"] == {}


def test_the_peak_counts_what_is_alive_at_once() -> None:
    """Tensors that were freed no longer count; arguments do."""
    with torch.no_grad(), ShapeMode() as mode:
        x = torch.empty(1000, device="meta")
        with mode.counting("net", [x]):
            for _ in range(5):
                x = x * 2
    assert mode.peak_bytes["net"] == 3 * 4000  # the argument, the last and the new one
