"""A diffusers pipeline: read from its config files, built without weights, loaded with them, and
run.
"""
