"""The tools that quantize: how each reads a list, and how a recipe is written for it."""
