"""What does a whole pipeline run do besides the Linears in the table?

`RunCounts` has the attention, FLOPs, bytes and kernels of every component. A census prices nothing:
it holds what a latency model needs and a table of Linears does not have, counted in eager mode, as
if nothing were fused.

    counts = run_shapes(spec).table.run
    counts.component("transformer").attention[0]    # batch, heads, q_len, kv_len, head_dim, calls

Conventions: all numbers are for one whole run, every call counted. `weight_bytes` and
`peak_activation_bytes` are states, not sums. FLOPs count a multiply-add as two. `eager_bytes` are
what kernels read and write that are neither GEMM, convolution nor fused attention; views are free.
This module imports no torch.
"""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from sensitivity.errors import UserError
from sensitivity.shapes.json_form import Amount, Count, read_record


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
        return read_record(TypeAdapter(cls), data, "counts of a run")


class AttentionShape(_Record):
    """Calls of scaled-dot-product attention with one shape.

    `heads` are those of the queries; grouped keys count as if they were repeated.
    """

    batch: Count
    heads: Count
    q_len: Amount
    kv_len: Amount
    head_dim: Count
    calls: Count

    @property
    def flops(self) -> int:
        """Both products of all calls: 4 x batch x heads x q_len x kv_len x head_dim x calls.

        A mask saves nothing here.
        """
        return 4 * self.batch * self.heads * self.q_len * self.kv_len * self.head_dim * self.calls


class ComponentCounts(_Record):
    """What one component of the pipeline did in the whole run.

    Attributes:
        component: its name in the pipeline.
        calls: how often the pipeline called it (its forward, or decode and encode of a VAE).
        attention: fused attention, one entry a shape, most FLOPs first.
        linear_flops: of `F.linear`, in modules or not.
        conv_flops: of convolutions.
        matmul_flops: of other matrix products, such as attention that is written out.
        eager_bytes: what all other kernels read and write.
        group_norm_bytes: those of `eager_bytes` that group norms read and write.
        kernels: how many kernels ran, of every kind.
        regions: names, inside the component, of the modules that regional compilation compiles one
            by one; "" is the whole component.
        region_kernels: how many of `kernels` ran inside of them.
        weight_bytes: of all parameters as they are loaded, in bf16 except for modules that
            diffusers keeps in fp32.
        peak_activation_bytes: the largest sum of live tensors inside one call, arguments included
            and parameters not. What kernels allocate for themselves is missing (FLUX's published
            peaks grow by 2.15 GB a picture, this counts 1.61).
    """

    component: str
    calls: Amount
    attention: tuple[AttentionShape, ...] = ()
    linear_flops: Amount = 0
    conv_flops: Amount = 0
    matmul_flops: Amount = 0
    eager_bytes: Amount = 0
    group_norm_bytes: Amount = 0
    kernels: Amount = 0
    regions: tuple[str, ...] = ()
    region_kernels: Amount = 0
    weight_bytes: Amount = 0
    peak_activation_bytes: Amount = 0


class RunCounts(_Record):
    """The counts of every component that has parameters, in the pipeline's order."""

    components: tuple[ComponentCounts, ...] = Field(default=())

    def scaled(self, factor: int) -> "RunCounts":
        """The counts of a model with `factor` times the tokens and features.

        Products grow with the third power of it, tensors with the second. Attention has more heads
        of the same size. Numbers of kernels and calls stay.
        """
        return RunCounts(components=tuple(_scaled(counts, factor) for counts in self.components))

    def component(self, name: str) -> ComponentCounts:
        """The counts of a component.

        Raises:
            UserError: there is no component of this name; the message lists those that there are.
        """
        for counts in self.components:
            if counts.component == name:
                return counts
        names = ", ".join(counts.component for counts in self.components) or "(there are none)"
        raise UserError(f"no counts of {name!r}; expected one of {names}: choose one of them")


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
        for name in ("eager_bytes", "group_norm_bytes", "weight_bytes", "peak_activation_bytes")
    }
    return counts.model_copy(update={"attention": attention, **cubes, **squares})
