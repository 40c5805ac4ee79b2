"""How far are the pictures from bf16's? `_base` has the contract, `lpips` the distance on pictures, `references` bf16's own pictures on disk."""
