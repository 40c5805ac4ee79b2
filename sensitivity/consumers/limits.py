"""What does a consumer ask of the formats of a model's Linears? `Limits`: whatever keeps to them,
the consumer can express.

    limits = get_exporter("sglang").limits(tree)
    limits.obstacles(layers)      # why these formats cannot be expressed, one sentence each
    limits.nearest(layers)        # the nearest formats that can

Exporters make the record from what is known of their consumer (`served_names`, `rules`). They
refuse recipes by it and find the nearest one with it; a search for consumers proposes only what
keeps to it (`search.bound_groups`). So there is one source of what can be expressed.

Conventions. Formats are {FQN: format} of every Linear. No rule makes a format coarser: where a
Linear may not have its format, it gets the next finer one, at last bf16. A format that quantizes
activations is replaced by one that does so too (`STAND_INS`): a weight-only format saves memory and
no time. INT8 is for GPUs without FP8, so no other format stands in for it.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sensitivity.core.format_name import FormatName, quantized
from sensitivity.core.words import some
from sensitivity.errors import RecipeError

PRECISION = (
    *(FormatName.NVFP4, FormatName.NVFP4_4O6, FormatName.NVFP4_A16),
    *(FormatName.INT8, FormatName.INT8_ROT, FormatName.FP8, FormatName.FP8_LB),
    *(
        FormatName.MXFP8,
        FormatName.FP8_A16,
        FormatName.MXFP8_A16,
        FormatName.INT8_A16,
        FormatName.BF16,
    ),
)
"""The formats from the coarsest to the finest.

Linears that need one format get the last of theirs here.
"""

_AFTER_NVFP4 = (FormatName.FP8, FormatName.FP8_LB, FormatName.MXFP8)
_WEIGHT_ONLY = (FormatName.FP8_A16, FormatName.MXFP8_A16, FormatName.INT8_A16)
STAND_INS: Mapping[FormatName, tuple[FormatName, ...]] = {
    FormatName.NVFP4: _AFTER_NVFP4,
    FormatName.NVFP4_4O6: _AFTER_NVFP4,
    FormatName.FP8: (FormatName.FP8_LB, FormatName.MXFP8),
    FormatName.FP8_LB: (FormatName.MXFP8,),
    FormatName.NVFP4_A16: _WEIGHT_ONLY,
    FormatName.FP8_A16: _WEIGHT_ONLY[1:],
    FormatName.MXFP8_A16: _WEIGHT_ONLY[2:],
}
"""{format: the finer ones that replace it where a consumer lacks it, the nearest first}; bf16
replaces every other.
"""

Layers = Mapping[str, FormatName]


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one form of one consumer asks of a model's formats.

    Attributes:
        consumer: its name.
        form: the form of its lists.
        formats: the formats that it has, bf16 among them.
        max_formats: how many quantized formats one file may name.
        lacks: {format that it lacks: why}; the reason may be left out.
        reads_as: {format: the one that its file names instead}, where it has no word for the first.
        apart: {two formats that one file cannot name: why}.
        kept: {FQN: why} of Linears that stay bf16 whatever a list says; the reason may be "".
        fused: Linears that it runs as one, or cannot tell apart: they have one format.
        kept_with: {FQN: the Linears that an entry for it hits as well}. Where the Linear stays
            bf16, so do they.
        unnamed: Linears that no list keeps in bf16.
        unknown: why nothing is known of this model; a sentence each. The rest is empty then.
        classes: the classes of the denoisers, in words.
    """

    consumer: str
    form: str = ""
    formats: frozenset[FormatName] = frozenset(FormatName)
    max_formats: int = len(FormatName)
    lacks: Mapping[FormatName, str] = field(default_factory=dict)
    reads_as: Mapping[FormatName, FormatName] = field(default_factory=dict)
    apart: Mapping[frozenset[FormatName], str] = field(default_factory=dict)
    kept: Mapping[str, str] = field(default_factory=dict)
    fused: Sequence[Sequence[str]] = ()
    kept_with: Mapping[str, Collection[str]] = field(default_factory=dict)
    unnamed: Collection[str] = ()
    unknown: tuple[str, ...] = ()
    classes: str = ""

    def obstacles(self, layers: Layers) -> list[str]:
        """Why the consumer cannot express these formats, one sentence each; none if it can."""
        if self.unknown:
            return list(self.unknown)
        chosen = quantized(layers)
        if chosen and len(self.kept) == len(layers):
            return [
                f"it quantizes no Linear of {self.classes}: all of the model runs in bf16 there"
            ]
        found = [*self._unnamed(layers), *self._kept(chosen), *self._formats(chosen)]
        found += [
            f"it gives these {len(family)} Linears one format: {_differing(layers, family)}"
            for family in self.fused
            if len({layers[fqn] for fqn in family}) > 1
        ]
        hit = [] if found else self._hit(layers)
        return found + [
            f"its list, which matches parts of names, would keep {some(hit)} in bf16 as well"
        ] * bool(hit)

    def nearest(self, layers: Layers) -> dict[str, FormatName]:
        """The nearest formats that the consumer can express.

        Raises:
            RecipeError: nothing is known of the model, or a Linear that should stay bf16 cannot.
        """
        if self.unknown:
            raise RecipeError(
                f"found no recipe near these formats for {self.consumer} ({self.form}):"
                f" {'; '.join(self.unknown)}; expected a model whose names are known; use another"
                " exporter"
            )
        own = {name: self._stand_in(name) for name in set(layers.values())}
        found = self._few_enough({fqn: own[name] for fqn, name in layers.items()})
        for family in self.fused:
            finest = max((found[fqn] for fqn in family), key=PRECISION.index)
            found.update(dict.fromkeys(family, finest))
        found |= dict.fromkeys(self.kept, FormatName.BF16)
        while hit := self._hit(found):
            found |= dict.fromkeys(hit, FormatName.BF16)
        if unnamed := self._bf16_unnamed(found):
            raise RecipeError(
                f"found no recipe near these formats for {self.consumer} ({self.form}): it"
                f" quantizes {some(unnamed)} all together or, without a quantization_config, not at"
                " all, as they have no names there; expected them quantized: use another exporter"
            )
        return found

    def _stand_in(self, name: FormatName) -> FormatName:
        """The format itself if the consumer has it, else the nearest that may replace it."""
        candidates = (name, *STAND_INS.get(name, ()))
        return next((own for own in candidates if own in self.formats), FormatName.BF16)

    def _few_enough(self, layers: dict[str, FormatName]) -> dict[str, FormatName]:
        """The formats with the coarsest replaced by the next one that is used, until one file can
        name what is left.
        """
        while (coarse := self._too_coarse(set(layers.values()))) is not None:
            used = [name for name in PRECISION if name in layers.values()]
            finer = (
                name
                for name in used[used.index(coarse) + 1 :]
                if name.is_quantized and name.is_weight_only == coarse.is_weight_only
            )
            becomes = next(finer, FormatName.BF16)
            layers = {fqn: becomes if own is coarse else own for fqn, own in layers.items()}
        return layers

    def _too_coarse(self, names: Collection[FormatName]) -> FormatName | None:
        """The format to replace first where one file cannot name all of these; else None."""
        used = [name for name in PRECISION if name.is_quantized and name in names]
        for pair in self.apart:
            if pair <= set(used):
                return min(pair, key=PRECISION.index)
        return used[0] if len(self._named(used)) > self.max_formats else None

    def _named(self, names: Iterable[FormatName]) -> list[FormatName]:
        """The formats as a file names them, each once."""
        return list(dict.fromkeys(self.reads_as.get(name, name) for name in names))

    def _unnamed(self, layers: Layers) -> Iterable[str]:
        if unnamed := self._bf16_unnamed(layers):
            yield f"it gives {some(unnamed)} no name, so that no list keeps them in bf16"

    def _bf16_unnamed(self, layers: Layers) -> list[str]:
        return [fqn for fqn in self.unnamed if layers[fqn] is FormatName.BF16]

    def _kept(self, chosen: Layers) -> Iterable[str]:
        """Quantized Linears that always stay bf16, a sentence for each reason."""
        reasons: dict[str, list[str]] = {}
        for fqn in chosen:
            if fqn in self.kept:
                reasons.setdefault(self.kept[fqn], []).append(fqn)
        for reason, fqns in reasons.items():
            because = f" ({reason})" if reason else ""
            yield f"it always runs {some(fqns)} in bf16{because}, which the recipe quantizes"

    def _formats(self, chosen: Layers) -> Iterable[str]:
        """Formats that it lacks, that exclude one another, and too many formats."""
        used = [name for name in FormatName if name in chosen.values()]
        for name in used:
            if name not in self.formats:
                fqns = some(fqn for fqn, own in chosen.items() if own is name)
                why = f" ({self.lacks[name]})" if self.lacks.get(name) else ""
                yield f"it has no {name}{why}, which {fqns} should get"
        for pair, why in self.apart.items():
            if pair <= set(used):
                yield f"its file cannot name {' and '.join(sorted(pair))} together: {why}"
        if len(self._named(used)) > self.max_formats:
            yield (
                f"its file names {self.max_formats} quantized format(s), and the recipe has"
                f" {len(used)} ({', '.join(used)})"
            )

    def _hit(self, layers: Layers) -> list[str]:
        """The quantized Linears that entries for bf16 ones hit."""
        hit = frozenset[str]().union(
            *(others for fqn, others in self.kept_with.items() if not layers[fqn].is_quantized)
        )
        return [fqn for fqn in quantized(layers) if fqn in hit] if hit else []


def _differing(layers: Layers, family: Sequence[str]) -> str:
    """The Linears of a family with their formats; of a large one, the first of each format."""
    shown = family
    if len(family) > 8:
        firsts = {layers[fqn]: fqn for fqn in reversed(family)}
        shown = sorted(firsts.values(), key=list(family).index)
    return ", ".join(f"{fqn} ({layers[fqn]})" for fqn in shown)
