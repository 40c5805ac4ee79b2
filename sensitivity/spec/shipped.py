"""Which studies come with the package, and in which folder are they?

    list_studies()["tiny-flux"]           # .../studies/tiny-flux.toml
    studies_folder() / "prompts"          # prompts of the studies

In a wheel the folder is beside the rooms, as `sensitivity/studies`; in a checkout it is beside the
package.
"""

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
