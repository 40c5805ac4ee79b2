"""Which settings of torch do compiling and quantizing change, and how are they put back?

torch.compile and torchao change settings of the whole process: those of inductor, dynamo and
functorch, and the precision of fp32 matrix products. A measurement leaves all of them as it found
them.

    with preserved_settings(recompile_limit=16):
        ...
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def preserved_settings(*, recompile_limit: int | None = None) -> Iterator[None]:
    """Put torch's settings back afterwards, whatever happens inside.

    Args:
        recompile_limit: Dynamo's limit inside: graphs for one code object. The limit for all code
            objects together is at least 64 times that. None leaves both.
    """
    modules = _setting_modules()
    before = [module.get_config_copy() for module in modules]
    precision = torch.get_float32_matmul_precision()
    try:
        if recompile_limit is not None:
            dynamo: Any = torch._dynamo.config
            dynamo.recompile_limit = recompile_limit
            dynamo.accumulated_recompile_limit = max(
                dynamo.accumulated_recompile_limit, 64 * recompile_limit
            )
        yield
    finally:
        for module, values in zip(modules, before, strict=True):
            after = module.get_config_copy()
            for name, value in values.items():
                if name in after and after[name] != value:
                    setattr(module, name, value)
        torch.set_float32_matmul_precision(precision)


def _setting_modules() -> tuple[Any, ...]:
    import torch._dynamo.config
    import torch._functorch.config
    import torch._inductor.config

    return torch._dynamo.config, torch._functorch.config, torch._inductor.config
