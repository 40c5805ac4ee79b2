"""Every error that this library raises on purpose.

    SensitivityError
    ├── UserError                    the caller can mend it: the command line exits with 2
    │   ├── UnknownModelError        no study, folder or Hub id has this name
    │   ├── PipelineError            what was named cannot be loaded as a diffusers pipeline
    │   │   └── ConfigMismatchError  the configs of its components seem to contradict one another
    │   ├── SpecError                a study TOML is malformed
    │   ├── FormatError              a format is unknown, unavailable here or refused by the model's shapes
    │   ├── PatternError             a pattern or FQN list is malformed or matches nothing
    │   ├── RecipeError              a recipe file is malformed
    │   │   └── RecipeMismatchError  a recipe does not describe this model
    │   ├── StoreError               a database is of another study, another schema, or damaged
    │   ├── OutputError              a result cannot be written where it was asked for
    │   ├── ConstraintError          no skip-list keeps to the constraints that were asked
    │   └── MissingWeightsError      weights that a measure needs are not on this machine
    └── MeasurementError             a run failed and nothing the caller typed explains it: exits with 1
        └── CalibrationError         layer sensitivities cannot be measured on this denoiser so; a search does without them

A message says the value found, what is allowed, and what to do next, in that order.
"""

from typing import Any


class SensitivityError(Exception):
    """Root of all errors raised on purpose by this library."""


class UserError(SensitivityError):
    """The caller can mend it; the message ends with the next step."""


class UnknownModelError(UserError):
    """No study, folder or Hub id has this name."""


class PipelineError(UserError):
    """What was named cannot be loaded as a diffusers pipeline."""


class ConfigMismatchError(PipelineError):
    """The configs of a pipeline's components seem to contradict one another."""


class SpecError(UserError):
    """A study TOML is malformed."""


class FormatError(UserError):
    """A format is unknown, unavailable here, or refused by the model's shapes."""


class PatternError(UserError):
    """A pattern or a list of FQNs is malformed or matches nothing."""


class RecipeError(UserError):
    """A recipe file is malformed."""


class RecipeMismatchError(RecipeError):
    """A recipe does not describe the model that it is applied to."""


class StoreError(UserError):
    """A database belongs to another study, has another schema, or is damaged."""


class OutputError(UserError):
    """A result cannot be written where it was asked for."""


class ConstraintError(UserError):
    """No skip-list keeps to the constraints that were asked; `outcome` is the SearchOutcome without
    a winner, where there is one.
    """

    outcome: Any = None


class MissingWeightsError(UserError):
    """Weights that a measure needs are not on this machine."""


class MeasurementError(SensitivityError):
    """A run failed and nothing that the caller typed explains it."""


class CalibrationError(MeasurementError):
    """Layer sensitivities cannot be measured on this denoiser with this estimator; the pipeline
    itself may be in order.
    """
