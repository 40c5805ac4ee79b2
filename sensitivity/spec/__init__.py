"""The study TOML: which model is searched, with which settings and prompts, as a frozen record.

    from sensitivity.spec import StudySpec, resolve_spec

This room imports no torch.
"""

from sensitivity.core.format_name import FormatName
from sensitivity.spec.loading import load_spec, resolve_spec
from sensitivity.spec.shipped import list_studies, studies_folder
from sensitivity.spec.study_spec import StudySpec

__all__ = [
    "FormatName",
    "StudySpec",
    "list_studies",
    "load_spec",
    "resolve_spec",
    "studies_folder",
]
