"""Was this tensor quantized by the call before?

Attention passes one tensor to to_q, to_k and to_v (FLUX also to proj_mlp). `LastResult` keeps what
was last computed, so that the shared input is quantized once.

    last = LastResult[QuantizedOperand]()
    rows = last.of(x, "nvfp4", lambda: fmt.quantize_activation(x))
"""

import threading
import weakref
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from torch import Tensor

T = TypeVar("T")


class LastResult(threading.local, Generic[T]):
    """Remembers, for each thread, what was last computed from a tensor.

    A result is reused for the same tensor object if its version counter did not advance. Every
    in-place operation on the tensor or on a view of it advances the counter; writes through `.data`
    or numpy do not. Tensors made in `torch.inference_mode` have no counter and are never
    remembered. The tensor is held weakly, the result until the next one.
    """

    def __init__(self) -> None:
        self._source: weakref.ref[Tensor] | None = None
        self._key: Hashable = None
        self._result: T | None = None

    def of(self, x: Tensor, name: str, compute: Callable[[], T]) -> T:
        """The result of `compute()`, which must depend on x and name alone."""
        if x.is_inference():
            return compute()
        key = (name, x._version)
        is_known = self._source is not None and self._source() is x and self._key == key
        if self._result is None or not is_known:
            self._result = compute()
            self._source, self._key = weakref.ref(x), key
        return self._result
