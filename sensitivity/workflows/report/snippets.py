"""What does one paste into the tool that serves the model? The recipe for every consumer.

    snippets_of(recipe)[1].consumer, snippets_of(recipe)[1].text      # "torchao", Python

Each text is the exporter's own, which proves that it means exactly the recipe. A consumer that
cannot express the recipe has no text, and its obstacles as notes.
"""

from sensitivity.consumers.exporters import EXPORTERS
from sensitivity.consumers.named_consumers import exporter_for
from sensitivity.core.words import and_more, first_line
from sensitivity.errors import SensitivityError
from sensitivity.recipes.recipe import Recipe
from sensitivity.workflows.report.records import Snippet


def snippets_of(recipe: Recipe) -> tuple[Snippet, ...]:
    """The recipe for each consumer, in the first form that can express it."""
    found = []
    for name in EXPORTERS:
        exporter = exporter_for(name, recipe)
        try:
            text = exporter.export(recipe, allow_random_weights=True)
            notes = tuple(exporter.notes(recipe, text))
        except SensitivityError as error:
            why = exporter.obstacles(recipe)
            text = ""
            notes = (and_more(why, most=3, separator="; ") or first_line(error),)
        found.append(Snippet(consumer=name, form=exporter.form, text=text, notes=notes))
    return tuple(found)


def takers_of(recipe: Recipe) -> tuple[str, ...]:
    """The consumers that take the recipe as it is."""
    return tuple(own.consumer for own in snippets_of(recipe) if own.text)
