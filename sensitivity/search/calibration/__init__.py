"""How much does each group of Linears matter? Layer sensitivities, computed once and kept.

An estimator gives each group and format an error, from inputs of the denoiser that a bf16 run
recorded, or from runs of its own. Five estimators exist.

    rollout     quantizes one group at a time and compares the latents after the first steps
    output      quantizes one group at a time and compares the denoiser's output
    preview     quantizes one group at a time and compares the pictures that one step predicts
    gradient    carries each Linear's own error to the denoiser's output by one backward pass
    local       compares each Linear's own output, all Linears in one pass

`jobs` has what an estimator is asked for, `_base` the contract of an estimator, `states` the
recorded inputs, and one module each the estimators. `choosing` says which is taken, `stored` runs
it and keeps the errors; `cost` says beforehand what that takes; `ranking` turns errors into shares
of damage.

    from sensitivity.search.calibration.stored import calibrate
    errors = calibrate(evaluator, candidates, store)      # {(group index, option): error}

An error is a prior, not a score: the search scales it to LPIPS and corrects it by what trials show.
Errors of one estimator can be compared with one another only. Their squares add up over groups
(LOG.md).

This package imports nothing by itself: `jobs` and `cost` need neither torch nor an evaluator.
"""
