"""Which skip-list next, and which one wins? The search over skip-lists.

What is chosen: `candidates` (groups and their gains), made by `grouping`.
What is known: `store` (scores, sensitivities), in a `database`; `shared_times`; `calibration/`.
What comes next: `proposers/`, on `damage` (a posterior), `knapsack` and `block_patterns`;
`optuna_sampler` offers the default proposer to other Optuna studies.
How a search goes: `settings`, `loop`, `trial_runner`, `stopping`, kept in a `log` of `trials`;
`finished` finds the studies of a database.
What wins: `estimate`, `anchor`, `front`, `shortlist`, `held_out`, `winner`, `to_recipe`.
"""
