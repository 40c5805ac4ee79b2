"""Which studies come with the package, and in which folder are they?

    list_studies()["tiny-flux"]           # .../studies/tiny-flux.toml
    study_of_hub("black-forest-labs/FLUX.1-dev")          # "flux1-dev"
    studies_folder() / "prompts"          # prompts of the studies

In a wheel the folder is beside the rooms, as `sensitivity/studies`; in a checkout it is beside the
package.
"""

import tomllib
from functools import cache
from pathlib import Path


def studies_folder() -> Path:
    """The folder of the studies that come with the package."""
    package = Path(__file__).parents[1]
    installed = package / "studies"
    return installed if installed.is_dir() else package.parent / "studies"


def list_studies() -> dict[str, Path]:
    """{name: TOML} of the studies that come with the package, sorted by path.

    A TOML inside of a pipeline folder (one with a `model_index.json`) is not a study.
    """
    paths = [
        path
        for path in studies_folder().glob("**/*.toml")
        if not any((parent / "model_index.json").is_file() for parent in path.parents)
    ]
    return {path.stem: path for path in sorted(paths)}


def study_of_hub(hub: str) -> str | None:
    """The name of the study of a Hub id, in upper or lower case; None where none has it."""
    return {own.casefold(): study for own, study in hub_ids().items()}.get(hub.casefold())


@cache
def hub_ids() -> dict[str, str]:
    """{Hub id: study} of the studies that have one."""
    found = {}
    for name, path in list_studies().items():
        hub = tomllib.loads(path.read_text(encoding="utf-8")).get("model", {}).get("hub")
        if hub is not None:
            found[hub] = name
    return found
