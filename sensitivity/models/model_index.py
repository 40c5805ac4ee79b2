"""Which components does a pipeline consist of?

`ModelIndex` is the content of a `model_index.json`, read once and checked.

    index = ModelIndex.of(resolve_spec("flux1-dev"))
    index.pipeline                                  # "FluxPipeline"
    index.components["transformer"].class_name      # "FluxTransformer2DModel"
    index.modules                                   # those with weights, by their class's name
    index.components["vae"].load_class()            # diffusers.AutoencoderKL

Conventions. An entry `[library, class]` names a component, and a class of null says that the
pipeline goes without it. Any other entry is an argument of the pipeline's constructor. Safety
checkers count as absent: they replace a picture that they flag by a black one, whose distance
means nothing.

Reading imports neither torch nor diffusers; only `load_class`, `module_class` and
`pipeline_class` do. Classes come from the installed diffusers and transformers alone, and only
those of `component_classes`: remote code is never run.
"""

import importlib
import inspect
import re
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from sensitivity.core.words import printable
from sensitivity.errors import PipelineError
from sensitivity.models.component_classes import EXPECTED, Kind, kind_of
from sensitivity.models.config_files import INDEX_FILE, config_folder, read_config
from sensitivity.models.hub import quiet
from sensitivity.spec.study_spec import StudySpec

TEXT_CLASSES = (
    "Tokenizer",
    "TokenizerFast",
    "Processor",
    "ProcessorFast",
    "FeatureExtractor",
    "TokenizersBackend",  # what transformers 5 calls a tokenizer without a class of its own
    "SentencePieceBackend",
    "MistralCommonBackend",
)
"""Endings of the classes that prepare inputs: they have no weights."""
SAFETY_CHECKER = "safety_checker"
GRAPHS = ("Onnx", "ORT", "OV", "Flax", "Neuron")
"""Beginnings of the classes of pipelines that run ONNX, OpenVINO, Flax or Neuron."""
COMMIT = re.compile(r"[0-9a-f]{40}")


class ComponentEntry(BaseModel):
    """One component, as the index names it."""

    model_config = ConfigDict(frozen=True, strict=True)

    library: str
    class_name: str

    @property
    def is_text(self) -> bool:
        """Whether it prepares inputs: a tokenizer, processor or feature extractor."""
        return self.class_name.endswith(TEXT_CLASSES)

    @property
    def is_module(self) -> bool:
        """Whether it has weights, as far as its class's name tells."""
        return not self.is_text and "Scheduler" not in self.class_name

    def find_class(self) -> Any:
        """What the libraries have under the class's name; None where they have nothing."""
        return getattr(_source(self.library), self.class_name, None)

    def load_class(self) -> Any:
        """The class, from diffusers, transformers, or one of diffusers' pipelines.

        Raises:
            PipelineError: the installed versions have no such class, or it is none that a component
                may have (`component_classes`).
        """
        cls = self.find_class()
        named = printable(f"{self.library}.{self.class_name}")
        if not isinstance(cls, type):
            raise PipelineError(
                f"{INDEX_FILE} names {named}; expected a class of the installed diffusers or"
                " transformers: upgrade them (remote code is not run)"
            )
        if missing := getattr(cls, "_backends", None):  # what stands for a class that lacks them
            raise PipelineError(
                f"{INDEX_FILE} names {named}, which needs the packages {', '.join(missing)};"
                " expected them to be installed: install them"
            )
        if kind_of(cls) is None:
            raise PipelineError(
                f"{INDEX_FILE} names {named} as a component; expected {EXPECTED}: save the pipeline"
                " again with `pipeline.save_pretrained`, which writes the component's own class"
            )
        return cls

    def module_class(self) -> Any:
        """The class if it is an `nn.Module`, else None.

        Raises:
            PipelineError: as `load_class`.
        """
        cls = self.load_class()
        return cls if kind_of(cls) is Kind.MODULE else None


class ModelIndex(BaseModel):
    """What a `model_index.json` says.

    Attributes:
        folder: the pipeline's folder.
        pipeline: the name of the pipeline's class.
        components: {name: entry} in the order of the file.
        absent: names of components that the pipeline goes without.
        arguments: the other arguments of the pipeline's constructor.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    folder: Path
    pipeline: str
    components: dict[str, ComponentEntry]
    absent: tuple[str, ...]
    arguments: dict[str, Any]

    @classmethod
    def of(cls, spec: StudySpec) -> Self:
        """The index of a study's pipeline; the config files of a Hub id are downloaded.

        Raises:
            PipelineError: it cannot be had, or is malformed.
        """
        return cls.read(config_folder(spec))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The index in a pipeline's folder.

        Raises:
            PipelineError: it is missing, or malformed.
        """
        path = folder / INDEX_FILE
        data = read_config(path)
        entries = {key: value for key, value in data.items() if not key.startswith("_")}
        named = {key: value for key, value in entries.items() if _names_component(value)}
        absent = {key for key, value in named.items() if value[1] is None or key == SAFETY_CHECKER}
        try:
            return cls.model_validate(
                {
                    "folder": folder,
                    "pipeline": data.get("_class_name", ""),
                    "components": {
                        key: {"library": library, "class_name": class_name}
                        for key, (library, class_name) in named.items()
                        if key not in absent
                    },
                    "absent": tuple(key for key in named if key in absent),
                    "arguments": {key: x for key, x in entries.items() if key not in named},
                }
            )
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise PipelineError(
                f"{path} is malformed: {'.'.join(map(str, first['loc']))} is {first['input']!r}"
                f" ({first['msg']}); expected the class's name as `_class_name`, and [library,"
                " class] or [null, null] for each component: write it again with"
                " `pipeline.save_pretrained`"
            ) from None

    @property
    def modules(self) -> dict[str, str]:
        """{component: class name} of those with weights, as far as their names tell."""
        return {name: x.class_name for name, x in self.components.items() if x.is_module}

    @property
    def text_components(self) -> tuple[str, ...]:
        """Names of tokenizers, processors and feature extractors."""
        return tuple(name for name, x in self.components.items() if x.is_text)

    def is_module(self, name: str) -> bool:
        """Whether there is a component of this name, with weights."""
        return name in self.modules

    def module_classes(self) -> dict[str, Any]:
        """{component: class} of those whose class is an `nn.Module`.

        Raises:
            PipelineError: the installed versions lack the class of some component.
        """
        found = {name: entry.module_class() for name, entry in self.components.items()}
        return {name: cls for name, cls in found.items() if cls is not None}

    @property
    def commit(self) -> str | None:
        """The commit of a snapshot in the Hub's cache; None for any other folder."""
        is_snapshot = self.folder.parent.name == "snapshots"
        return self.folder.name if is_snapshot and COMMIT.fullmatch(self.folder.name) else None

    def pipeline_class(self) -> Any:
        """The pipeline's class.

        Raises:
            PipelineError: it is no pipeline of the installed diffusers.
        """
        with quiet():
            import diffusers

            if self.pipeline.startswith(GRAPHS):
                raise PipelineError(
                    f"{self.folder / INDEX_FILE} names the class {printable(self.pipeline)[:80]},"
                    " whose components are no models of torch; expected a pipeline of torch: name"
                    " the one that it was made of"
                )
            cls = getattr(diffusers, self.pipeline, None) if self.pipeline.isidentifier() else None
            if not (isinstance(cls, type) and issubclass(cls, diffusers.DiffusionPipeline)):
                raise PipelineError(
                    f"{self.folder / INDEX_FILE} names the class {self.pipeline!r}; expected a"
                    f" pipeline of the installed diffusers {diffusers.__version__}: upgrade"
                    " diffusers, or correct `_class_name`"
                )
        return cls

    def pipeline_call(self) -> tuple[str, dict[str, Any]]:
        """The pipeline's class name, and {argument of its call: default}; nothing is built.

        An argument without a default has `inspect.Parameter.empty`.

        Raises:
            PipelineError: as `pipeline_class`.
        """
        cls = self.pipeline_class()
        parameters = inspect.signature(cls.__call__).parameters
        return cls.__name__, {name: p.default for name, p in parameters.items() if name != "self"}


def _source(library: str) -> Any:
    """The module of a component's class; None where there is no such module.

    Older pipelines of diffusers lie in `deprecated` by now, and folders still name them as before
    (Stable Cascade's `wuerstchen`).
    """
    if library in ("diffusers", "transformers"):
        return importlib.import_module(library)
    pipelines: Any = importlib.import_module("diffusers.pipelines")
    if not library.isidentifier():
        return None
    found = getattr(pipelines, library, None)
    return getattr(pipelines.deprecated, library, None) if found is None else found


def unknown_component(
    spec: StudySpec, pipeline: str, found: str, names: list[str]
) -> PipelineError:
    """The error for a component that a pipeline does not have.

    Args:
        spec: the study.
        pipeline: the class of its pipeline.
        found: the component that was asked for.
        names: those that there are.
    """
    there = ", ".join(names) or "(it has none)"
    return PipelineError(
        f"{spec.name}: the {pipeline} has no module {found!r}; expected one of {there}: correct"
        " `component`, or `model.component` in a study TOML"
    )


def _names_component(entry: object) -> bool:
    return (
        isinstance(entry, list)
        and len(entry) == 2
        and all(isinstance(text, str | None) for text in entry)
    )
