"""What does a whole pipeline run do besides its Linears' shapes?

`RunCounts`: attention, FLOPs, bytes and kernels of every component.

A census prices nothing. It holds what a model of latency needs and a table of Linears does not
have, counted in eager mode, as if nothing were fused:

    counts = run_shapes(spec).table.run
    counts.component("transformer").attention[0]        # batch, heads, q_len, kv_len, head_dim, calls

Conventions: all numbers are for one whole run, every call counted, but for `weight_bytes` and
`peak_activation_bytes`, which are states. FLOPs count a multiply-add as two. `eager_bytes` are what
the kernels that are neither GEMM, convolution nor fused attention read and write; views are free.
This module imports no torch.
"""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from sensitivity.errors import UserError


class _Record(BaseModel):
    """Frozen; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_json(self) -> dict[str, Any]:
        """The object as JSON has it."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, data: object) -> Self:
        """Read what `to_json` gave.

        Raises:
            UserError: a key is missing or unknown, or a value has the wrong type or range; the
                message names it.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "the counts"
            raise UserError(
                f"Malformed counts: {where}: {first['msg']}; allowed: what `to_json` of"
                f" {cls.__name__} gives. Write them anew with `sensitivity profile --json`."
            ) from None


class AttentionShape(_Record):
    """Calls of scaled-dot-product attention with one shape.

    `heads` are those of the queries; grouped keys are counted as repeated.
    """

    batch: PositiveInt
    heads: PositiveInt
    q_len: NonNegativeInt
    kv_len: NonNegativeInt
    head_dim: PositiveInt
    calls: PositiveInt

    @property
    def flops(self) -> int:
        """Both products of all calls: 4 x batch x heads x q_len x kv_len x head_dim.

        A mask saves nothing here.
        """
        return 4 * self.batch * self.heads * self.q_len * self.kv_len * self.head_dim * self.calls


class ComponentCounts(_Record):
    """What one component of the pipeline did in the whole run.

    Attributes:
        component: its name in the pipeline.
        calls: how often the pipeline called it (its forward, or decode and encode of a VAE).
        attention: fused attention, one entry a shape, most FLOPs first.
        linear_flops: `F.linear`, in modules or not.
        conv_flops: convolutions.
        matmul_flops: other products of matrices, attention that is written out among them.
        eager_bytes: read and written by kernels that are none of the above.
        kernels: those kernels, and the GEMMs, convolutions and attentions.
        weight_bytes: all parameters, as they are loaded (bf16, but for modules that diffusers keeps
            in fp32).
        peak_activation_bytes: the largest sum of live tensors that are no parameters, inside one
            call, arguments included. What kernels allocate for themselves is not in it (FLUX's
            published peaks grow by 2.15 GB a picture, this counts 1.61).
    """

    component: str
    calls: NonNegativeInt
    attention: tuple[AttentionShape, ...] = ()
    linear_flops: NonNegativeInt = 0
    conv_flops: NonNegativeInt = 0
    matmul_flops: NonNegativeInt = 0
    eager_bytes: NonNegativeInt = 0
    kernels: NonNegativeInt = 0
    weight_bytes: NonNegativeInt = 0
    peak_activation_bytes: NonNegativeInt = 0


class RunCounts(_Record):
    """One entry a component that has parameters, in the pipeline's order."""

    components: tuple[ComponentCounts, ...] = Field(default=())

    def scaled(self, factor: int) -> "RunCounts":
        """The counts of a model with `factor` times the tokens and features: products grow with its
        third power, tensors with its second.

        Attention has more heads of the same size. Kernels and calls stay.
        """
        return RunCounts(components=tuple(_scaled(counts, factor) for counts in self.components))

    def component(self, name: str) -> ComponentCounts:
        """The counts of a component.

        Raises UserError, with the names that there are, for another.
        """
        for counts in self.components:
            if counts.component == name:
                return counts
        raise UserError(
            f"no counts of {name!r}; allowed are"
            f" {', '.join(c.component for c in self.components) or 'none'}: choose one of them"
        )


def _scaled(counts: ComponentCounts, factor: int) -> ComponentCounts:
    attention = tuple(
        shape.model_copy(
            update={
                "heads": shape.heads * factor,
                "q_len": shape.q_len * factor,
                "kv_len": shape.kv_len * factor,
            }
        )
        for shape in counts.attention
    )
    cubes = {
        name: getattr(counts, name) * factor**3
        for name in ("linear_flops", "conv_flops", "matmul_flops")
    }
    squares = {
        name: getattr(counts, name) * factor**2
        for name in ("eager_bytes", "weight_bytes", "peak_activation_bytes")
    }
    return counts.model_copy(update={"attention": attention, **cubes, **squares})
