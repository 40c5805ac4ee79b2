"""How many neighbouring inputs of a Linear does a rotated format mix? `rotation_block`.

Rotated formats multiply blocks along K by an orthogonal matrix whose sizes are powers of 4
(`formats.rotation` has the matrix). The block is the largest one that divides K.

    rotation_block(3072)    # 256
    rotation_block(192)     # 64
    rotation_block(40)      # None: such a Linear has no rotated format

Why 256 at most: it is the block of ComfyUI's ConvRot, whose kernels are written for 256, 64 and 16
(comfy-kitchen, `convrot_groupsize`).
"""

BLOCKS = (256, 64, 16)
"""The sizes, the largest first."""


def rotation_block(k: int) -> int | None:
    """The block of a Linear with K = `k` input features; None where no block divides K."""
    return next((block for block in BLOCKS if k % block == 0), None)
