"""What does a pipeline look like before its weights?

`build_skeleton`: the study's pipeline from its config files alone, every parameter on meta.

    pipe = build_skeleton(resolve_spec("flux1-dev"))        # a FluxPipeline, 12 billion parameters, no memory

Each component is built by its own class from its own `config.json`, as `from_pretrained` would:
bf16, but for modules that its class keeps in fp32. The scheduler is real, tokenizers and processors
are stand-ins, safety checkers are left out. Buffers and tables that constructors compute are real
(up to `shape_mode.REAL_ELEMENTS`). Config files come from `model.config`, `model.path`, or the Hub
(JSON files only). No weight file is opened.

What it does not do: classes of remote code, GGUF and other single files.
"""

import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from sensitivity.errors import PipelineError
from sensitivity.models.hub import quiet
from sensitivity.models.model_index import (
    _first_line,
    _is_module_entry,
    _is_text,
    component_class,
    config_folder,
    enable_vae_tiling,
    no_component,
    pipeline_class,
    read_json,
)
from sensitivity.models.shape_mode import META, REAL_ELEMENTS, ShapeMode
from sensitivity.models.stand_in_tokenizer import StandInTokenizer
from sensitivity.spec.study_spec import StudySpec

CLIP_TOKENS, OTHER_TOKENS = 77, 512
FEW_TOKENS = 10**6  # a tokenizer without a limit says 1e30
# older diffusers wrote it for classes that have names of their own now, and still reads it
RENAMED = "Transformer2DModel"


def build_skeleton(spec: StudySpec) -> Any:
    """The study's pipeline on meta; its device is the CPU for all that it makes itself.

    Raises:
        PipelineError: no config files can be had, or they are no pipeline that the installed
            diffusers knows.
        SpecError: the study decodes in tiles, and the pipeline's VAE cannot.
    """
    folder = config_folder(spec)
    index = read_json(folder / "model_index.json")
    with quiet():
        cls = pipeline_class(str(index.get("_class_name", "")), folder)
        accepted = inspect.signature(cls.__init__).parameters
        parts = {
            name: _part(spec, folder, name, entry)
            for name, entry in index.items()
            if name in accepted and not name.startswith("_")
        }
        needed = [
            name
            for name, p in accepted.items()
            if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD and name != "self"
        ]
        parts = dict.fromkeys(needed) | parts
        try:
            pipe = _on_cpu(cls)(**parts)
        except Exception as error:  # whatever a pipeline's constructor makes of its parts
            raise PipelineError(
                f"{folder} is no complete {cls.__name__} ({type(error).__name__}:"
                f" {_first_line(error)}); allowed is a folder that `pipeline.save_pretrained`"
                " wrote, weights may be missing: give each component its config.json"
            ) from error
        pipe.set_progress_bar_config(disable=True)
    if isinstance(parts.get("tokenizer"), StandInTokenizer):
        parts["tokenizer"].dropped_tokens = _dropped_tokens(pipe)
    enable_vae_tiling(spec, pipe)
    return pipe


def _dropped_tokens(pipe: Any) -> int:
    """How many tokens of its template the pipeline drops again: an attribute of QwenImage's kind,
    an argument's default of HunyuanVideo's.
    """
    template = inspect.signature(type(pipe).__call__).parameters.get("prompt_template")
    said = getattr(pipe, "prompt_template_encode_start_idx", None)
    if said is None and template is not None and isinstance(template.default, dict):
        said = template.default.get("crop_start")
    return said if isinstance(said, int) else 0


def build_component(spec: StudySpec, component: str | None = None) -> nn.Module:
    """One component on meta, `model.component` by default; its buffers are real, however large.

    Raises PipelineError where there is none.
    """
    folder = config_folder(spec)
    index = read_json(folder / "model_index.json")
    name = spec.model.component if component is None else component
    with quiet():
        part = (
            _part(spec, folder, name, index.get(name), real_elements=math.inf)
            if isinstance(index.get(name), list)
            else None
        )
    if not isinstance(part, nn.Module):
        raise PipelineError(
            no_component(
                spec,
                str(index.get("_class_name")),
                name,
                [n for n, e in index.items() if _is_module_entry(e)],
            )
        )
    return part


def _on_cpu(cls: Any) -> Any:
    """A subclass of the same name that makes its latents and timesteps on the CPU."""
    cpu = property(lambda _self: torch.device("cpu"))
    return type(
        cls.__name__,
        (cls,),
        {"_execution_device": cpu, "device": cpu, "__module__": cls.__module__},
    )


def _part(
    spec: StudySpec, folder: Path, name: str, entry: Any, real_elements: float = REAL_ELEMENTS
) -> Any:
    """What stands in the pipeline under `name`: a module on meta, a scheduler, a stand-in, None, or
    a plain value of the index.
    """
    if not (
        isinstance(entry, list)
        and len(entry) == 2
        and all(isinstance(x, str | None) for x in entry)
    ):
        return entry
    library, class_name = entry
    if class_name is None or name == "safety_checker":
        return None
    if _is_text(class_name):
        return _stand_in(spec, folder / name, class_name)
    cls = component_class(library, class_name)
    if issubclass(cls, nn.Module):
        _check_class(folder, name, class_name)
    try:
        if issubclass(cls, nn.Module):
            return _module(cls, folder / name, real_elements)
        return cls.from_pretrained(str(folder / name))
    except Exception as error:  # every class may refuse a config in its own way
        raise PipelineError(
            f"{name} ({class_name}) cannot be built from {folder / name} ({type(error).__name__}:"
            f" {_first_line(error)}); allowed is the config that `save_pretrained` writes: write it"
            " again, or correct it"
        ) from error


def _check_class(folder: Path, name: str, class_name: str) -> None:
    """Raise PipelineError where a component's config was written by another class than the index
    names. Those of transformers do not say.
    """
    file = folder / name / "config.json"
    said = read_json(file).get("_class_name", class_name) if file.is_file() else class_name
    if said != class_name and RENAMED not in (said, class_name):
        raise PipelineError(
            f"model_index.json names {class_name} for {name}, and {file} is of {said!r}; allowed is"
            " one class in both: put the component's own config.json there, or correct"
            " model_index.json"
        )


def _stand_in(spec: StudySpec, folder: Path, class_name: str) -> StandInTokenizer:
    file = folder / "tokenizer_config.json"
    said = read_json(file).get("model_max_length") if file.is_file() else None
    default = OTHER_TOKENS
    if "CLIP" in class_name:  # its encoder has a position for each token
        encoder = folder.parent / folder.name.replace("tokenizer", "text_encoder") / "config.json"
        positions = read_json(encoder).get("max_position_embeddings") if encoder.is_file() else None
        default = positions if isinstance(positions, int) else CLIP_TOKENS
    return StandInTokenizer(
        prompt_tokens=spec.pricing.prompt_tokens,
        negative_prompt_tokens=spec.pricing.negative_prompt_tokens,
        max_length=said if isinstance(said, int) and 0 < said < FEW_TOKENS else default,
    )


def _module(cls: Any, folder: Path, real_elements: float) -> nn.Module:
    """A module from its config: parameters on meta, buffers real up to `real_elements`, eval, no
    gradients.
    """
    lean = (
        ShapeMode() if math.isfinite(real_elements) else nullcontext()
    )  # tables that are not kept are not computed either
    with _default_dtype(torch.bfloat16), _no_init(), lean, _EmptyOnMeta(), torch.no_grad():
        if hasattr(cls, "load_config"):
            module: Any = cls.from_config(cls.load_config(str(folder)))
        else:
            module = cls._from_config(
                cls.config_class.from_pretrained(str(folder)), dtype=torch.bfloat16
            )
            module.tie_weights()  # constructors leave it to the loading of weights
    kept = (
        getattr(cls, "_keep_in_fp32_modules", None)
        if hasattr(cls, "load_config")
        else getattr(cls, "_keep_in_fp32_modules_strict", None)
    )
    _to_meta(module, {kept} if isinstance(kept, str) else set(kept or ()), real_elements)
    built: nn.Module = module.eval().requires_grad_(False)
    return built


def _to_meta(module: nn.Module, kept: set[str], real_elements: float) -> None:
    """Replace each parameter by one on meta; tied ones stay tied."""
    made: dict[int, nn.Parameter] = {}
    for prefix, child in module.named_modules():
        for name, parameter in child._parameters.items():
            if parameter is None:
                continue
            if id(parameter) not in made:
                fp32 = bool(kept & {*prefix.split("."), name})
                dtype = (
                    (torch.float32 if fp32 else torch.bfloat16)
                    if parameter.is_floating_point()
                    else parameter.dtype
                )
                made[id(parameter)] = nn.Parameter(
                    torch.empty(parameter.shape, dtype=dtype, device=META), requires_grad=False
                )
            child._parameters[name] = made[id(parameter)]
        for name, buffer in child._buffers.items():
            if buffer is not None and buffer.numel() > real_elements:
                child._buffers[name] = buffer.to(META)


class _EmptyOnMeta(TorchFunctionMode):
    """Storage without values is made on meta: constructors make their weights so.

    What they compute is real.
    """

    makers = (torch.empty, torch.rand, torch.randn)

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in self.makers and kwargs.get("device") is None:
            kwargs["device"] = META
        return func(*args, **kwargs)


def _no_init() -> Any:
    """Constructors do not fill their weights; transformers has the context that says so to it and
    to torch.
    """
    try:
        from transformers.initialization import no_init_weights
    except ImportError:
        return nullcontext()
    return no_init_weights()


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
