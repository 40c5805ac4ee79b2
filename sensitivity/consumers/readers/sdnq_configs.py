"""Which format does one config of SDNQ give a Linear? `read_sdnq_config`, `format_of`.

    read_sdnq_config({"weights_dtype": "float8_e4m3fn", "group_size": -1,
                      "use_quantized_matmul": True,
                      "modules_to_not_convert": ["proj_out"],
                      "modules_dtype_dict": {"int8": ["*attn.to_q.weight"]}})

A config has a type for all weights (`weights_dtype`) and four lists of names:

    modules_to_not_convert       stay as they are
    modules_dtype_dict           {type: names} of weights with another type
    modules_to_not_use_matmul    weights are dequantized before a product in 16 bits
    modules_quant_config         {name: arguments} of Linears with other arguments

A key of `modules_dtype_dict` may also say a number of bits (`minimum_6bit`): where `weights_dtype`
has fewer, the weight gets the integer of so many bits.

Formats. Weights in float8_e4m3fn or int8 with one scale a row, and products in the same type with
one scale a token, are this tool's fp8 and int8; int8 with `use_hadamard` is int8-rot, by the same
matrix where a group of 256, 64 or 16 divides K (SDNQ takes Sylvester's and 128 where that is the
largest); weights alone, with `group_size` -1, are fp8-a16 and int8-a16. All else has a name and no
price: SDNQ has neither MXFP8 nor NVFP4. Its float4_e2m1fn has scales in float32, and its products
run in 8 or 16 bits.

Source: sdnq 0.2.8 (`SDNQConfig`, `get_quant_kwargs`, `get_minimum_dtype`), read, and run beside
this in the tests.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sensitivity.consumers.lists import Entry
from sensitivity.consumers.other_formats import ListedFormat, OtherFormat, weight_only
from sensitivity.consumers.readers.entries import check_name, check_names
from sensitivity.core.format_name import FormatName
from sensitivity.core.rotation_block import BLOCKS
from sensitivity.errors import PatternError

RULE = "sdnq"
KEPT, NO_MATMUL = "modules_to_not_convert", "modules_to_not_use_matmul"
ROTATED = "rotated"
DTYPES, CONFIGS = "modules_dtype_dict", "modules_quant_config"

FP8, INT8 = "float8_e4m3fn", "int8"
_NAMES: Mapping[str, tuple[FormatName, tuple[str, ...]]] = {
    **dict.fromkeys((FP8, "fp8"), (FormatName.FP8, (FP8, "fp8"))),
    INT8: (FormatName.INT8, (INT8,)),
}
"""{type: (our plain format, the names of the type)}."""
_DTYPE = re.compile(r"(?:bool|(?:u?int|u?fp|float)(?P<bits>\d{1,2})(?:_e\d+m\d+\w*)?)")
_BITS = re.compile(r"(?:minimum)?[-_]?(?P<kind>u?int)?(?P<bits>\d{1,2})[-_]?(?:bits?)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class SdnqEntry(Entry):
    """An entry of one of the lists.

    Attributes:
        among: the list that it is in.
        key: the key of `modules_dtype_dict` that it is under.
    """

    among: str
    key: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class SdnqConfig:
    """What one config says.

    Attributes:
        arguments: the config itself.
        kept: names that stay as they are.
        dtypes: {key of `modules_dtype_dict`: its names}.
        no_matmul: names whose products run in 16 bits.
        others: {name: its own arguments}.
    """

    arguments: Mapping[str, Any]
    kept: tuple[str, ...]
    dtypes: Mapping[str, tuple[str, ...]]
    no_matmul: tuple[str, ...]
    others: Mapping[str, Mapping[str, Any]]

    @property
    def default(self) -> ListedFormat:
        """The format of a Linear that no list names."""
        return format_of(self.arguments)

    @property
    def adds_names(self) -> bool:
        """Whether SDNQ adds names for the model's class to its lists when it quantizes."""
        return self.arguments.get("add_skip_keys") is not False

    def entries(self, component: str = "", *, with_moot: bool = True) -> list[SdnqEntry]:
        """The entries, those first that win over the others.

        Args:
            component: of each entry.
            with_moot: those too that leave the type as it is, as it has enough bits.
        """

        def entry(name: str, becomes: ListedFormat, among: str, key: str = "") -> SdnqEntry:
            return SdnqEntry(
                text=name, rule=RULE, format=becomes, component=component, among=among, key=key
            )

        own = self.arguments
        return [
            *(entry(name, FormatName.BF16, KEPT) for name in self.kept),
            *(
                entry(name, format_of(own, dtype_of(key, own)), DTYPES, key)
                for key, names in self.dtypes.items()
                if with_moot or dtype_of(key, own)
                for name in names
            ),
            *(entry(name, format_of(own, matmul=False), NO_MATMUL) for name in self.no_matmul),
            *(
                entry(name, format_of({**own, **more}), CONFIGS)
                for name, more in self.others.items()
            ),
        ]


def read_sdnq_config(part: Mapping[str, Any]) -> SdnqConfig:
    """The config in an object.

    Raises:
        PatternError: it is malformed.
    """
    dtypes, others = _object(part, DTYPES), _object(part, CONFIGS)
    for name, more in others.items():
        check_name(name, CONFIGS, expected="a part of a name")
        if not isinstance(more, dict):
            raise PatternError(
                f"found {CONFIGS} {str(more)[:80]!r}; expected an object of arguments for each"
                " name; correct it"
            )
    config = SdnqConfig(
        arguments=part,
        kept=_names(part.get(KEPT), KEPT),
        dtypes={key: _names(names, f"{DTYPES}.{key[:40]}") for key, names in dtypes.items()},
        no_matmul=_names(part.get(NO_MATMUL), NO_MATMUL),
        others=others,
    )
    config.entries()  # says now what is wrong with a type
    return config


def format_of(
    arguments: Mapping[str, Any], dtype: str | None = None, *, matmul: bool = True
) -> ListedFormat:
    """The format of a Linear.

    Args:
        arguments: the config's, or those of one module.
        dtype: the weight's type, if it is not that of the arguments.
        matmul: whether the product may be quantized.

    Raises:
        PatternError: the type is none of SDNQ's.
    """
    dtype = _checked(arguments.get("weights_dtype", "int8") if dtype is None else dtype)
    matmul = matmul and bool(arguments.get("use_quantized_matmul"))
    more = [
        words
        for key, words in (
            ("use_svd", "with a low-rank part"),
            ("use_hadamard", ROTATED),
            ("use_codebook", "with a codebook"),
            ("use_dynamic_quantization", "or finer"),
        )
        if arguments.get(key)
    ]
    if (ours := _ours(arguments, dtype, matmul=matmul, more=more)) is not None:
        return ours
    words = " ".join([f"{dtype} (sdnq)", *more])
    return OtherFormat(words) if matmul else weight_only(words)


def _ours(
    arguments: Mapping[str, Any], dtype: str, *, matmul: bool, more: list[str]
) -> FormatName | None:
    """This tool's format of a type with one scale a row; None if it is another.

    `more` is what SDNQ does beside rounding, in words.
    """
    if dtype not in _NAMES or arguments.get("scale_dtype") not in (None, "none"):
        return None
    name, names = _NAMES[dtype]
    keeps_scales = name is FormatName.FP8 or arguments.get("dequantize_fp32") is not False
    if not keeps_scales or arguments.get("quantized_matmul_dtype") not in (None, *names):
        return None
    if not matmul:  # a group size of 0 is 512 or less then
        return name.weight_only if arguments.get("group_size") == -1 and not more else None
    if arguments.get("group_size", 0) not in (0, -1):
        return None
    is_rotated_alone = more == [ROTATED] and arguments.get("hadamard_group_size", 256) in BLOCKS
    if is_rotated_alone and name is FormatName.INT8:
        return FormatName.INT8_ROT
    return None if more else name


def dtype_of(key: str, arguments: Mapping[str, Any]) -> str | None:
    """The type that a key of `modules_dtype_dict` gives; None where it leaves `weights_dtype`.

    Raises:
        PatternError: the key is neither a type nor a number of bits.
    """
    key = key.lower()
    if not key.startswith("minimum") and not key.endswith(("bit", "bits")):
        return _checked(key)
    found = _BITS.fullmatch(key)
    if found is None:
        raise PatternError(
            f"found {key[:40]!r} in {DTYPES}; expected a type, or a number of bits such as"
            " minimum_6bit; correct it"
        )
    bits = int(found["bits"])
    if _bits(_checked(arguments.get("weights_dtype", "int8"))) >= bits:
        return None
    return f"{'uint' if found['kind'] == 'uint' or bits <= 4 else 'int'}{bits}"


def _checked(dtype: Any) -> str:
    """The name of a type, if it can be one of SDNQ's."""
    if isinstance(dtype, str) and _DTYPE.fullmatch(dtype) and 0 < _bits(dtype) <= 16:
        return dtype
    raise PatternError(
        f"found the type {str(dtype)[:80]!r}; expected one of SDNQ's, such as int8, uint4 or {FP8};"
        " correct it"
    )


def _bits(dtype: str) -> int:
    found = _DTYPE.fullmatch(dtype)
    return int(found["bits"] or 1) if found else 0


def _names(value: Any, key: str) -> tuple[str, ...]:
    """Names of a list; one text is a list of one, as SDNQ takes it."""
    given = [value] if isinstance(value, str) else value
    return check_names(given, key, expected="a part of a name")


def _object(part: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = part.get(key) or {}
    if not isinstance(found, dict):
        raise PatternError(
            f"found {key} {str(found)[:80]!r}; expected an object; write {{NAME: ...}}"
        )
    return found
