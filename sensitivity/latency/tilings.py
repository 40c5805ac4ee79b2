"""How is a GEMM spread over the multiprocessors of a chip? `tile_work`.

Method. The output (M, N) is cut into tiles, and each multiprocessor computes one tile at a time, so
the work comes in whole waves. If there are few tiles, K is split: several multiprocessors share a
tile and add their parts afterwards, which costs as much as `SPLIT_K` more elements of K. For each
element of K a tile of r x c takes the longer of r x c products and of reading r + c operands; a
small tile reads more for each product. The tiling that takes least counts, as kernel libraries
choose.

Conventions. Work is counted in products of one multiprocessor at the full rate of its matrix units:
a GEMM of whole waves of large tiles has M x K x N / multiprocessors of them. The tiling does not
depend on the format.

    tile_work(m=512, k=3072, n=3072, sm_count=132, reads_per_product=75.0)

What it does not do: stream-K in all its forms, clusters, or swizzling.
"""

import math
from functools import lru_cache

TILES = tuple(
    (rows, columns)
    for rows, columns in (
        (16, 128),
        (32, 128),
        (64, 64),
        (64, 128),
        (64, 256),
        (128, 16),
        (128, 32),
        (128, 64),
        (128, 128),
        (128, 192),
        (128, 256),
        (192, 128),
        (192, 192),
        (192, 256),
        (256, 64),
        (256, 128),
        (256, 192),
        (256, 256),
    )
)
"""(rows, columns) of output tiles: the usual ones of CUTLASS and cuBLAS on Hopper and Blackwell,
with one or two multiprocessors.
"""
SPLITS = (1, 2, 3, 4, 6, 8)
"""In how many parts K may be split."""
SHORTEST_PART = 128
"""Elements of K in the shortest part."""
SPLIT_K = 600.0
"""Elements of K that a split is worth. Fits gave 500 on an H100 and 680 on a B200, and predicted
sources that were left out no better than this number for both.
"""
OPERAND_BANDWIDTH = 4.0
"""What a multiprocessor reads of the operands, which are mostly in the L2 cache, in multiples of
its share of the memory bandwidth. Fits gave 4.35 on an H100 and 3.6 on a B200, no better either.
"""


@lru_cache(maxsize=65536)
def tile_work(
    *, m: int, k: int, n: int, sm_count: int, reads_per_product: float, split_k: float = SPLIT_K
) -> float:
    """Products at the full rate that the busiest multiprocessor's time is worth.

    Args:
        m, k, n: The GEMM (M, K) x (K, N).
        sm_count: Multiprocessors.
        reads_per_product: How many products take as long as reading one operand.
        split_k: Elements of K that a split is worth.
    """
    least = math.inf
    for rows, columns in TILES:
        tiles = math.ceil(m / rows) * math.ceil(n / columns)
        step = max(rows * columns, (rows + columns) * reads_per_product)
        for splits in SPLITS:
            if splits > 1 and k < splits * SHORTEST_PART:
                break
            waves = math.ceil(tiles * splits / sm_count)
            length = k / splits + (split_k if splits > 1 else 0.0)
            least = min(least, waves * length * step)
    return least
