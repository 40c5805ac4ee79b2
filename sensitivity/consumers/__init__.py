"""The tools that quantize (consumers): how each of them reads a list of Linears, and how a recipe
is written for it.

`lists` has the list as its consumer understands it, `rules` the matching rules, `served_names` the
names that Linears have in the servers. `readers` turns texts into lists, `exporters` recipes into
texts.
"""
