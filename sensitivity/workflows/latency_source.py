"""Are prices measured on the GPU of this machine, or predicted? `latency_source`.

    latency_source(spec, None, target="h200", device="cuda", formats=formats)      # "measured"

They are measured where the GPU that is priced is the GPU at hand and runs every format natively,
and where the model is its own size; elsewhere they are predicted. Whoever asks for a measurement
that is not possible is told why. Nothing is measured or loaded here (`shape_table`).
"""

from collections.abc import Iterable

import torch

from sensitivity.core.devices import check_device
from sensitivity.core.environment import describe_environment
from sensitivity.core.file_names import is_target_file
from sensitivity.core.format_name import FormatName, Source
from sensitivity.errors import UserError
from sensitivity.formats.registry import get_format
from sensitivity.latency.devices import find_device, get_device
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.progress import Say, silent


def latency_source(
    spec: StudySpec,
    asked: Source | None,
    *,
    target: str | None,
    device: str,
    formats: Iterable[FormatName],
    noted: Say = silent,
) -> Source:
    """Where the prices of a search come from.

    Args:
        spec: the study.
        asked: what the user wants; None is "measured" where that is possible.
        target: the GPU that is priced; None is the study's.
        device: where torch runs.
        formats: the searched formats.
        noted: told if times are measured though nobody asked for that.

    Raises:
        UserError: "measured" was asked for, and it is not possible: the message says why.
    """
    if asked == "predicted":
        return asked
    reason = why_not_measured(spec, target=target, device=device, formats=formats)
    if asked == "measured":
        if reason is not None:
            raise UserError(reason)
        return asked
    name = gpu_name(device)
    if reason is not None or name is None or find_device(name) is None:
        return "predicted"  # a GPU that only a file describes is measured if somebody asks for it
    noted(
        f"prices are measured on the {name} at hand (`latency` predicted would take the prediction)"
    )
    return "measured"


def why_not_measured(
    spec: StudySpec, *, target: str | None, device: str, formats: Iterable[FormatName]
) -> str | None:
    """Why the prices of a target cannot be measured on a device; None if they can.

    A reason says what was found, what was expected, and the next step.
    """
    name = gpu_name(device)
    if name is None:
        return (
            f"`latency` is measured, and `device` is {device!r}; expected the GPU that is priced,"
            " since shapes are timed where they run: run it where that GPU is, or set `latency` to"
            " predicted"
        )
    if spec.pricing.stands_for > 1:
        return (
            f"`latency` is measured, and {spec.name} stands for a model {spec.pricing.stands_for}"
            " times its size, which is not here; expected a model of its own size: set `latency` to"
            " predicted"
        )
    wanted = spec.pricing.target if target is None else target
    found, priced = find_device(name), get_device(wanted)
    if found is None and not is_target_file(wanted):
        return (
            f"`latency` is measured, and the {name} of this machine is no device that the package"
            f" knows, nor is it {priced.name}; expected a file that describes it in `target`, as in"
            " ./my-gpu.toml: name one, or set `latency` to predicted"
        )
    if found is not None and found.name != priced.name:
        return (
            f"`latency` is measured on the {name} of this machine, and {priced.name} is priced;"
            f" expected `target` {found.name}: give that, or set `latency` to predicted"
        )
    for fmt in formats:
        refused = native_refusal(fmt, device)
        if refused is not None:
            return (
                f"`latency` is measured, and {fmt} does not run natively on the {name} of this"
                f" machine ({refused}); expected formats that do: leave {fmt} out of `format`, or"
                " set `latency` to predicted"
            )
    return None


def gpu_name(device: str) -> str | None:
    """The name of the GPU that `device` is; None where it is none, or torch does not see it."""
    try:
        check_device(device, gpu_only=True)
    except UserError:
        return None
    return describe_environment(device)["device"]


def native_refusal(name: FormatName, device: str) -> str | None:
    """Why a format does not run natively on a device; None if it does."""
    return get_format(name).native_refusal(torch.device(device))


def target_at_hand(device: str, asked: str | None) -> str:
    """The name of the GPU that is measured.

    It is found by its own name. For a GPU that the package does not know, `asked` names a device
    TOML that describes it.

    Raises:
        UserError: `asked` names another GPU than this one, or this one is unknown and no TOML was
            given.
    """
    name = describe_environment(device)["device"]
    found = find_device(name)
    if asked is None or (found is not None and asked.strip().lower() == found.name):
        if found is None:
            raise UserError(
                f"{name} is no device that the package knows; expected a device TOML that describes"
                " it: name one in `target`, as in ./my-gpu.toml"
            )
        return found.name
    if found is not None and not is_target_file(asked):
        raise UserError(
            f"`target` is {asked!r}, and `measure` times the {name} of this machine; expected"
            f" {found.name}: leave `target` out, or `measure`"
        )
    return asked
