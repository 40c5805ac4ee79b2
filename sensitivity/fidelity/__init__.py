"""How far are the pictures from bf16's?

`_base` has the contract, `lpips` the distance on pictures, `frames` that on clips, `audio` that on
their sound, `detail` a second opinion on pictures; `references` keeps bf16's own pictures on disk.
"""
