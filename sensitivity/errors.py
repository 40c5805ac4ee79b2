"""Every error that this library raises on purpose.

    SensitivityError
    ├── UserError                    the caller can mend it: the command line exits with 2
    │   ├── UnknownModelError        no study, folder or Hub id has this name
    │   ├── PipelineError            the model cannot be loaded as a diffusers pipeline
    │   │   ├── ConfigMismatchError  the configs of its components contradict one another
    │   │   ├── MissingPackageError  its code needs a package that is not installed
    │   │   └── NeedsPictureError    it needs a picture, and a study gives texts alone
    │   ├── SpecError                a study TOML or a file of prompts is malformed
    │   ├── FormatError              a format is unknown, unavailable or refused by a shape
    │   ├── PatternError             a pattern or FQN list is malformed or matches nothing
    │   ├── RecipeError              a recipe file is malformed
    │   │   └── RecipeMismatchError  a recipe does not describe this model
    │   ├── StoreError               a database is of another study or schema, or in use
    │   │   ├── InUseError           another process has a database to write it
    │   │   ├── LostDatabaseError    a database server does not answer; it may be back soon
    │   │   └── DamageError          what a database holds is not what was written
    │   ├── OutputError              a result cannot be written to its path
    │   ├── ConstraintError          no skip-list satisfies the constraints
    │   └── MissingWeightsError      the weights that are needed are not on this machine
    ├── DeviceLostError              the GPU no longer answers this process: exits with 75
    └── MeasurementError             a run failed, not by the caller's fault: exits with 1
        └── CalibrationError         layer sensitivities cannot be estimated on this denoiser

A message gives the value found, what was expected and the next step, in that order. It names fields
of records in backticks (`max_lpips`); the command line shows its own option in their place.
"""

from typing import Any


class SensitivityError(Exception):
    """Root of all errors raised on purpose by this library."""


class UserError(SensitivityError):
    """The caller can mend it; the message ends with the next step."""


class UnknownModelError(UserError):
    """No study, folder or Hub id has this name."""


class PipelineError(UserError):
    """The model cannot be loaded as a diffusers pipeline."""


class ConfigMismatchError(PipelineError):
    """The configs of a pipeline's components contradict one another."""


class MissingPackageError(PipelineError):
    """A pipeline's code needs a package that is not installed."""


class NeedsPictureError(PipelineError):
    """A pipeline needs a picture, and a study gives texts alone."""


class SpecError(UserError):
    """A study TOML or a file of prompts is malformed."""


class FormatError(UserError):
    """A format is unknown, unavailable here, or refused by the model's shapes."""


class PatternError(UserError):
    """A pattern or a list of FQNs is malformed or matches nothing."""


class RecipeError(UserError):
    """A recipe file is malformed."""


class RecipeMismatchError(RecipeError):
    """A recipe does not describe the model that it is applied to."""


class StoreError(UserError):
    """A database belongs to another study, has another schema, or is in use."""


class InUseError(StoreError):
    """Another process has a database to write it."""


class LostDatabaseError(StoreError):
    """A database server does not answer, or ended the connection; it may be back soon."""


class DamageError(StoreError):
    """What a database holds is not what was written to it."""


class OutputError(UserError):
    """A result cannot be written to its path."""


class ConstraintError(UserError):
    """No skip-list satisfies the constraints."""

    outcome: Any = None
    """The SearchOutcome, which has no winner; None where no search was run."""


class MissingWeightsError(UserError):
    """The weights that a metric or a model needs are not on this machine."""


class DeviceLostError(SensitivityError):
    """The GPU no longer answers this process, whatever it is asked; a new process may use it."""


class MeasurementError(SensitivityError):
    """A run failed, and nothing that the caller passed explains it."""


class CalibrationError(MeasurementError):
    """Layer sensitivities cannot be estimated on this denoiser with this estimator.

    The pipeline itself may be in order: a search without layer sensitivities may still run.
    """
