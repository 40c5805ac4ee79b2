"""What did a GPU take that somebody measured elsewhere? Target files, and prices by them.

The JSON files of this folder come with the package; `target_list` finds them by the chip's name.
"""
