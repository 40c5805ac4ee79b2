"""Runs without weights that several tests look at: made once in a session."""

from functools import cache

from sensitivity.shapes.run import run_shapes
from sensitivity.shapes.shape_run import ShapeRun
from sensitivity.spec.loading import resolve_spec


@cache
def shape_run(study: str) -> ShapeRun:
    """The run of a study that comes with the package, as it is declared."""
    return run_shapes(resolve_spec(study))
