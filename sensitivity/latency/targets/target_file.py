"""What did somebody measure on a GPU? `TargetFile`, the record that `device measure` writes.

A target file is one JSON object: the chip, versions, times of Linears as a compiled block has them
(`rows`), of GEMMs and of quantizers alone, host costs, refusals, how far native kernels are from
emulation, and the constants of a fit. It has no name, path or serial number of the machine, so it
can be sent to others.

    target = load_target(Path("b200.json"))
    target.measured.us(m=512, k=3072, n=3072, format=FormatName.FP8, kind="compiled")
    shipped_targets()["h200"]                    # those that come with the package, by chip name

Conventions. Microseconds a call; bytes; FLOP/s. A row has raw repetitions, or the reason why there
are none. Numbers have four significant digits.

What it does not do: measure (`workflows.device_measure`), or price a run (`target_latency`).
"""

import datetime
import math
import re
import statistics
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from sensitivity.core.format_name import CompileMode, FormatName
from sensitivity.core.outside_files import TARGET, read_json, reason
from sensitivity.core.words import printable
from sensitivity.errors import UserError
from sensitivity.latency.kernel_shapes import parse_gemm, parse_quantizer
from sensitivity.latency.shape_times import ShapeTime, parse_linear

SCHEMA: Literal["sensitivity-target/1"] = "sensitivity-target/1"
SIGNIFICANT_DIGITS = 4

LEAST_US = 0.01
"""No kernel is shorter, so a shorter row is one whose producer took all of the time."""
_Text = Annotated[str, Field(strict=True, max_length=400), AfterValidator(printable)]
_Short = Annotated[str, Field(strict=True, max_length=100), AfterValidator(printable)]
_Us = Annotated[float, Field(strict=True, gt=-1e9, lt=1e9)]
_Rate = Annotated[float, Field(strict=True, gt=0, le=1e18)]
_Count = Annotated[int, Field(strict=True, ge=0, lt=2**50)]
_Size = Annotated[int, Field(strict=True, ge=1, lt=2**40)]
_Constant = Annotated[float, Field(strict=True, ge=1e-6, le=1e6)]
_Part = Annotated[float, Field(strict=True, ge=0, le=1)]


class _Record(BaseModel):
    """Frozen; unknown keys, NaN and infinities are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TimedRow(_Record):
    """Times of one shape, as `ShapeTime` has them.

    Attributes:
        key: Names the shape and the format.
        us: Repetitions under steady load.
        rested_us: Repetitions on a rested GPU.
        reason: Why there are none; None if there are.
        copies: Sets of inputs and weights that were rotated through.
    """

    key: _Short
    us: Annotated[tuple[_Us, ...], Field(max_length=64)] = ()
    rested_us: Annotated[tuple[_Us, ...], Field(max_length=64)] = ()
    reason: _Text | None = None
    copies: _Count = 0

    @classmethod
    def of(cls, row: ShapeTime) -> "TimedRow":
        """The row of a measurement, without its producer's times."""
        return cls(
            key=row.key,
            us=row.us,
            rested_us=row.rested_us,
            reason=row.reason,
            copies=row.copies,
        )

    @property
    def steady_us(self) -> float | None:
        """The median under steady load; None if there are no times, or below `LEAST_US`."""
        us = statistics.median(self.us) if self.us else 0.0
        return us if us >= LEAST_US else None

    @property
    def price_us(self) -> float | None:
        """See `ShapeTime.price_us`; None as `steady_us`."""
        return None if self.steady_us is None else self.as_time().price_us

    def as_time(self) -> ShapeTime:
        """The row as measured rows are elsewhere."""
        return ShapeTime(
            key=self.key,
            us=self.us,
            rested_us=self.rested_us,
            reason=self.reason,
            copies=self.copies,
        )


class RefusedShape(_Record):
    """A shape that a kernel refuses.

    Attributes:
        m, k, n: The shape.
        bias: Whether the Linear has a bias.
        format: The format.
        reason: What the kernel said.
    """

    m: _Size
    k: _Size
    n: _Size
    bias: bool
    format: FormatName
    reason: _Text


class Agreement(_Record):
    """How far a native kernel is from exact emulation; see `native_check.KernelDifference`."""

    format: FormatName
    arithmetic: _Short
    m: _Size
    k: _Size
    n: _Size
    bias: bool
    inputs: _Short
    largest_ulp: Annotated[float, Field(ge=0)] | None = None
    mean_ulp: Annotated[float, Field(ge=0)] | None = None
    equal: _Part | None = None
    native_not_finite: _Count = 0
    emulated_not_finite: _Count = 0
    error: _Text | None = None


class KernelFitRecord(_Record):
    """Constants that were fitted to a file's rows.

    Attributes:
        constants: {constant: value}; the others are those of the chip's family.
        names: The order of the values in `samples`.
        samples: Samples around them, for intervals.
        errors: {what: relative error}, as the fit states them.
    """

    constants: Annotated[dict[_Short, _Constant], Field(max_length=100)] = Field(
        default_factory=dict
    )
    names: Annotated[tuple[_Short, ...], Field(max_length=100)] = ()
    samples: Annotated[tuple[tuple[_Constant, ...], ...], Field(max_length=400)] = ()
    errors: Annotated[dict[_Short, float], Field(max_length=100)] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_samples(self) -> "KernelFitRecord":
        """Every sample has one value for each name, and every name is a constant of the fit."""
        unknown = [name for name in self.names if name not in self.constants]
        if unknown or len(set(self.names)) < len(self.names):
            raise ValueError("`names` are not some of its constants, each once")
        if any(len(sample) != len(self.names) for sample in self.samples):
            raise ValueError("a sample has not one value for each of `names`")
        return self


class TargetFile(_Record):
    """One GPU's measurement. See the module.

    Attributes:
        schema_name: "sensitivity-target/1", under the key "schema".
        name: The chip in lower case, such as "h200".
        device: What the driver calls the GPU.
        capability: CUDA compute capability, "9.0" for Hopper.
        sm_count: Streaming multiprocessors.
        memory_bytes: The GPU's memory.
        cache_bytes: Its L2 cache.
        driver: Version of the driver.
        cpu: The model of the CPU, which decides host costs.
        versions: Versions of CUDA, torch, torchao, mslk and this package.
        compile_mode: How Linears were compiled and launched.
        measured: The day.
        minutes: How long it took.
        complete: Whether everything that was planned was measured.
        notes: What is missing, and why.
        formats: Quantized formats that run natively.
        limits: Best rates that were reached (`machine_limits`).
        rows: Linears and attentions.
        gemms: GEMMs alone.
        quantizers: Quantizers alone.
        host: Launch costs (`machine_limits`); a text is the reason of a failure.
        refusals: Shapes that kernels refuse.
        ulps: Native kernels against emulation.
        kernels: Constants fitted to the rows; None if they were not fitted.
    """

    model_config = ConfigDict(populate_by_name=True)

    schema_name: Literal["sensitivity-target/1"] = Field(default=SCHEMA, alias="schema")
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=60)]
    device: _Short
    capability: Annotated[str, Field(pattern=r"^[0-9]{1,2}[.][0-9]$")]
    sm_count: Annotated[int, Field(strict=True, gt=0, le=2**16)]
    memory_bytes: _Size
    cache_bytes: _Count = 0
    driver: _Short = "unknown"
    cpu: _Short = "unknown"
    versions: Annotated[dict[_Short, _Short], Field(max_length=40)]
    compile_mode: CompileMode
    measured: datetime.date
    minutes: Annotated[float, Field(ge=0, le=1e5)] = 0.0
    complete: bool = False
    notes: Annotated[tuple[_Text, ...], Field(max_length=50)] = ()
    formats: tuple[FormatName, ...]
    limits: Annotated[dict[_Short, _Rate], Field(max_length=40)] = Field(default_factory=dict)
    rows: Annotated[tuple[TimedRow, ...], Field(max_length=5_000)] = ()
    gemms: Annotated[tuple[TimedRow, ...], Field(max_length=5_000)] = ()
    quantizers: Annotated[tuple[TimedRow, ...], Field(max_length=5_000)] = ()
    host: Annotated[dict[_Short, float | _Text], Field(max_length=100)] = Field(
        default_factory=dict
    )
    refusals: Annotated[tuple[RefusedShape, ...], Field(max_length=5_000)] = ()
    ulps: Annotated[tuple[Agreement, ...], Field(max_length=1_000)] = ()
    kernels: KernelFitRecord | None = None

    @field_validator("rows", "gemms", "quantizers")
    @classmethod
    def _check_keys(cls, rows: tuple[TimedRow, ...], info: Any) -> tuple[TimedRow, ...]:
        """Every row names a shape of its section."""
        for row in rows:
            if not names_shape(info.field_name, row.key):
                raise ValueError(f"{row.key[:60]!r} names no shape of {info.field_name}")
        return rows

    def best_rates(self) -> dict[FormatName, float]:
        """{format: the most FLOP/s that a GEMM of the file reached}."""
        best: dict[FormatName, float] = {}
        for row in self.gemms:
            gemm, us = parse_gemm(row.key), min(row.rested_us or row.us, default=0.0)
            if gemm is not None and us > 0:
                rate = 2 * gemm.m * gemm.k * gemm.n / us * 1e6
                best[gemm.format] = max(rate, best.get(gemm.format, 0.0))
        if (rate := self.limits.get("bf16_flops_per_s", 0.0)) > 0:
            best[FormatName.BF16] = max(rate, best.get(FormatName.BF16, 0.0))
        return best

    def to_json(self) -> dict[str, Any]:
        """The object as JSON has it, numbers rounded to four significant digits.

        Empty fields of rows are left out.
        """
        data = self.model_dump(mode="json", by_alias=True)
        for section in ("rows", "gemms", "quantizers", "ulps"):
            data[section] = [
                {key: value for key, value in row.items() if value not in (None, [], 0)}
                for row in data[section]
            ]
        rounded: dict[str, Any] = round_numbers(data)
        return rounded


def round_numbers(value: Any) -> Any:
    """The same value with floats rounded to four significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{SIGNIFICANT_DIGITS}g}") if math.isfinite(value) else value
    if isinstance(value, Mapping):
        return {key: round_numbers(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [round_numbers(item) for item in value]
    return value


_ATTENTION = re.compile(r"attention batch=\d+ heads=\d+ q=\d+ kv=\d+ dim=\d+")


def _parse_row(key: str) -> object | None:
    return key if _ATTENTION.fullmatch(key) else parse_linear(key)


def names_shape(section: str, key: str) -> bool:
    """Whether a key is that of a row of a section ("rows", "gemms" or "quantizers")."""
    try:
        return _PARSERS[section](key) is not None
    except (ValueError, KeyError):
        return False


_PARSERS = {"rows": _parse_row, "gemms": parse_gemm, "quantizers": parse_quantizer}


def load_target(path: Path) -> TargetFile:
    """Read a target file.

    Raises:
        UserError: It cannot be read, is no JSON, or is no target file; the message says what is
            wrong.
    """
    try:
        data = read_json(path, TARGET)
    except (OSError, ValueError) as error:
        raise UserError(
            f"The target file {path} cannot be read ({printable(reason(error))}); expected a JSON"
            " file that `sensitivity device measure` wrote. Name one, or a chip such as h100, as"
            " `target`."
        ) from None
    return parse_target(data, str(path))


def parse_target(data: object, what: str) -> TargetFile:
    """Check a target file's data. Raises UserError as `load_target`."""
    try:
        return TargetFile.model_validate(data)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'the file'}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False)[:3]
        )
        raise UserError(
            f"The target file {what} is none ({printable(problems)}); expected what `sensitivity"
            f" device measure` writes (schema {SCHEMA}). Measure again, or name a chip as `target`."
        ) from None


@cache
def shipped_targets() -> Mapping[str, TargetFile]:
    """{chip name: target} of the files that come with the package."""
    folder = resources.files("sensitivity.latency").joinpath("targets")
    found = {}
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".json"):
            target = TargetFile.model_validate_json(entry.read_bytes())
            found[target.name] = target
    return MappingProxyType(found)
