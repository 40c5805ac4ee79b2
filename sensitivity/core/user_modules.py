"""How is a user's own module imported? Installed modules first, then the working directory.

    module = import_user_module("my_metrics")

A function, a sampler or a filter that a user names as `module:name` is found this way, wherever it
is asked for. Importing runs the module's code, so only a name that the user typed comes here, never
one that a file names.
"""

import importlib
import sys
from pathlib import Path
from types import ModuleType


def import_user_module(name: str) -> ModuleType:
    """Import a module by its dotted name. Raises what the import raises.

    Args:
        name: such as "my_package.samplers".
    """
    here = str(Path.cwd())
    sys.path.append(here)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(here)
