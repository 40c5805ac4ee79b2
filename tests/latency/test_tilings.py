"""Output tiles come in whole waves, K may be split, and small tiles read more."""

import pytest

from sensitivity.latency.tilings import tile_work

ALONE = {"reads_per_product": 1e-9, "split_k": 1e12}
"""A chip that reads its operands for nothing, and cannot split K."""


@pytest.mark.parametrize(("rows", "waves"), [(256, 1), (257, 2), (512, 2), (513, 3)])
def test_whole_waves(rows: int, waves: int) -> None:
    """One column of 148 tiles is one wave of 148 multiprocessors, and one row more is another."""
    work = tile_work(m=rows, k=4096, n=256 * 148, sm_count=148, **ALONE)
    smaller = rows if rows <= 256 else 256 * waves  # a smaller tile may fill the last wave better
    assert work <= waves * 256 * 256 * 4096
    assert work >= rows * 256 * 4096
    if rows % 256 == 0:
        assert work == smaller * 256 * 4096


def test_k_is_split_where_there_are_few_tiles() -> None:
    """One tile of a long K takes half as long on two multiprocessors, plus what a split costs."""
    shape = {"m": 16, "k": 8192, "n": 128, "reads_per_product": 1e-9}
    whole = tile_work(**shape, sm_count=8, split_k=1e12)
    assert whole == 16 * 128 * 8192
    assert tile_work(**shape, sm_count=2, split_k=100) == 16 * 128 * (4096 + 100)
    assert tile_work(**shape, sm_count=8, split_k=100) == 16 * 128 * (1024 + 100)
    assert tile_work(**shape | {"k": 256}, sm_count=8, split_k=1) == 16 * 128 * (128 + 1)


def test_small_tiles_are_bound_by_their_operands() -> None:
    """A tile of 16 x 128 takes the time of reading 144 operands for each element of K."""
    shape = {"m": 16, "k": 1024, "n": 128, "sm_count": 1, "split_k": 1e12}
    assert tile_work(**shape, reads_per_product=75.0) == 144 * 75 * 1024
    assert tile_work(**shape, reads_per_product=1.0) == 16 * 128 * 1024


def test_more_is_never_less_work() -> None:
    """Work grows with M, K, N, and shrinks with multiprocessors."""
    chip = {"sm_count": 132, "reads_per_product": 70.0, "split_k": 500.0}
    sizes = (1, 15, 16, 17, 127, 128, 129, 512, 1000, 4096, 4608)
    for works in (
        [tile_work(m=size, k=3072, n=3072, **chip) for size in sizes],
        [tile_work(m=512, k=size, n=3072, **chip) for size in sizes],
        [tile_work(m=512, k=3072, n=size, **chip) for size in sizes],
    ):
        assert works == sorted(works)
    few, many = (
        tile_work(m=512, k=3072, n=3072, **chip | {"sm_count": count}) for count in (100, 132)
    )
    assert many <= few
