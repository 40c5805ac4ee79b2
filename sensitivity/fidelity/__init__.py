"""How far are a model's pictures from those of bf16?

- Metrics compare pictures with their references: `lpips` (implements `distance.Distance`), `frames`
  for clips, `audio` for their sound, `detail` as a second opinion.
- `comparison` applies the metrics that a study asks for, and `scoring` makes a `score.Score` of
  them.
- `typical`, `mean_curve` and `flips` say what values over prompts are worth, `summary` states all
  three of a score, and `alike` tells skip-lists apart.
- `references` keeps bf16's own pictures on disk.
- `evaluator.Evaluator` does the whole job on a loaded pipeline: formats in, score out.

Nothing is imported here, so that a caller loads only what it needs.
"""
