"""Which skip-list next? `study` runs the Optuna study, `sampler` proposes, `front` selects."""
