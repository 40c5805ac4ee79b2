"""The recipe file: its records, reading and writing it, applying it to a model, comparing two.

    from sensitivity.recipes import Recipe, load_recipe

Importing this room loads no torch.
"""

from sensitivity.recipes.recipe import Recipe, load_recipe

__all__ = ["Recipe", "load_recipe"]
