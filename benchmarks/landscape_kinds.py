"""Which landscapes do searches play on without a model? `make` draws one, `fitted` has a table's.

    landscape = make("interactions", seed=3)
    landscape.hear(choice)              # Heard: LPIPS of each search prompt, error of the latents
    landscape.truth([choice])           # (1, 2): typical and mean damage on endless other prompts

What real rows of tiny-flux show, and all landscapes share. The logarithms of the groups' damages
have a standard deviation of 1.02. Damages add up less and less: their sum at `MOST` would do half
of that. A prompt reacts by its own sensitivity (of the logarithm 0.75), to each group a little
differently (0.5), and the rest is chance (0.35). 1.8 % of the pictures become another one, most of
them of few prompts. Layer sensitivities tell logarithms of damages to within 0.39 (rollout) to 0.54
(gradient) after a fit. The errors of the final latents are roots of sums of squares, see a group's
damage to within 0.34, and differ between prompts by 0.36, of which chance is 0.27.

The kinds differ from "additive" in one thing each; see `KINDS`. What chance does to a list on a
prompt depends on the landscape's seed, the list and the prompt alone: heard twice, it is the same.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from ceiling import features_of, fit_damages, items_of
from measures import Array, typical_of
from numpy.typing import NDArray
from search_arms import Heard, World
from table_files import Table

from sensitivity.core.format_name import FormatName
from sensitivity.search.candidates import Candidates, Choice, Group

LOG_DAMAGE, SENSITIVITY, OWN, CHANCE = 1.02, 0.75, 0.5, 0.35
FLIPS, FLIPPED, MOST = 0.018, 0.4, 0.1
ERRORS = {"rollout": 0.39, "output": 0.48, "gradient": 0.54, "preview": 0.45, "local": 0.65}
LATENT, LATENT_OWN, LATENT_CHANCE = 0.34, 0.36, 0.27
LOG_GAIN, SAVED = 1.5, 0.33
TYPICAL_OF_ALL = 0.03
"""Typical LPIPS of everything in NVFP4."""
SEARCH, OTHERS = 10, 64
ROLES = (
    "attn.to_q+to_k+to_v",
    "attn.to_out",
    "attn.add_q+add_k+add_v",
    "attn.to_add_out",
    "ff.net.0",
    "ff.net.2",
    "norm.linear",
    "proj_mlp",
    "proj_out",
)
BANDS = 6


@dataclass(frozen=True, kw_only=True)
class Landscape:
    """Damages that are known.

    Attributes:
        name: its kind.
        world: what the arms may know.
        log_damages: (D, S + T) of each item on each search prompt and on T others.
        sensitivities: (S + T,) by which a prompt multiplies all damage.
        pairs: (m, 2) items that interact; strengths (m,), in units of the root of the product.
        latents: (D,) logarithms of the items' errors of the latents.
        search: S.
        most: a sum of damages that does half of what it says.
        chance: standard deviation of the logarithm that nothing explains.
        flips: (S + T,) chance that a picture becomes another one where a list's typical damage is
            that of everything quantized; less damage, fewer flips.
        floor: LPIPS of bf16 from itself; smaller values are heard as they are.
        always: whether the first search prompt always flips.
        exact: LPIPS below it is heard as exactly 0.
        seed: of chance.
    """

    name: str
    world: World
    log_damages: Array
    sensitivities: Array
    latents: Array
    flips: Array
    search: int
    seed: int
    pairs: NDArray[np.int64] | None = None
    strengths: Array | None = None
    most: float = MOST
    chance: float = CHANCE
    floor: float = 1e-5
    always: bool = False
    exact: float = 0.0

    def expected(self, choices: Sequence[Choice]) -> Array:
        """(n, S + T) damages without chance and flips."""
        features = features_of(items_of(self.world.candidates), choices)
        damages = np.exp(self.log_damages)
        total = features @ damages
        if self.pairs is not None and self.strengths is not None:
            first, second = self.pairs.T
            both = features[:, first] * features[:, second]
            joint = np.sqrt(damages[first] * damages[second])
            total = np.maximum(total + (both * self.strengths) @ joint, 0.2 * total)
        return np.asarray(self.sensitivities * total / (1 + total / self.most))

    def _flip_chance(self, expected: Array) -> Array:
        """(n, S + T) chance of another picture."""
        typical = np.exp(np.log(np.maximum(expected, 1e-12)).mean(1, keepdims=True))
        return 1 - np.exp(-self.flips * np.minimum(typical / TYPICAL_OF_ALL, 3.0))

    def truth(self, choices: Sequence[Choice]) -> Array:
        """(n, 2) typical and mean damage on the other prompts, chance and flips averaged out."""
        expected = self.expected(choices)
        chance = self._flip_chance(expected)[:, self.search :]
        other = np.maximum(expected[:, self.search :], 1e-12)
        flipped = np.maximum(other, FLIPPED)
        logs = (1 - chance) * np.log(other) + chance * np.log(flipped)
        mean = (1 - chance) * other * np.exp(self.chance**2 / 2) + chance * flipped
        quantized = np.array([any(choice) for choice in choices])[:, None]
        both = np.column_stack([np.exp(logs.mean(1)), mean.mean(1)])
        return np.where(quantized & (expected > 0).any(1, keepdims=True), both, 0.0)

    def hear(self, choice: Choice) -> Heard:
        """What a search sees of a list."""
        if not any(choice):
            return Heard((0.0,) * self.search, (0.0,) * self.search, self.floor)
        digest = hashlib.sha256(repr((self.seed, tuple(map(int, choice)))).encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
        expected = self.expected([choice])
        values = expected[0, : self.search] * np.exp(rng.normal(0, self.chance, self.search))
        flips = rng.random(self.search) < self._flip_chance(expected)[0, : self.search]
        if self.always:
            flips[0] = True
        other = FLIPPED * np.exp(rng.normal(0, 0.2, self.search))
        values = np.where(flips, np.maximum(values, other), np.minimum(values, 1.0))
        values = np.where((values < self.exact) & ~flips, 0.0, values)
        squares = features_of(items_of(self.world.candidates), [choice])[0] @ np.exp(
            2 * self.latents
        )
        own = np.random.default_rng([4, self.seed]).normal(0, LATENT_OWN, self.search)
        latent = np.sqrt(squares) * np.exp(own + rng.normal(0, LATENT_CHANCE, self.search))
        return Heard(tuple(values.tolist()), tuple(latent.tolist()), self.floor)


def additive(name: str, seed: int, *, search: int = SEARCH, two_formats: bool = False) -> Landscape:
    """Damages that add up, the landscape that all others begin with."""
    rng = np.random.default_rng([20261129, seed])
    formats = (FormatName.MXFP8, FormatName.NVFP4) if two_formats else (FormatName.NVFP4,)
    groups = _groups(rng, len(formats))
    candidates = Candidates(
        formats=(FormatName.BF16, *formats),
        groups=groups,
        fixed={},
        refused={},
        fqns=tuple(fqn for group in groups for fqn in group.fqns),
        rule_of_thumb=tuple(
            0 if "norm" in group.name or "add_out" in group.name else len(formats)
            for group in groups
        ),
        bf16_s=1.0,
    )
    items = items_of(candidates)
    of_group = _log_damages(rng, groups)
    logs = np.array([of_group[g] for g, _ in items])
    for i, (_, option) in enumerate(items):
        if candidates.formats[option] is FormatName.MXFP8:
            logs[i] += rng.normal(-1.9, 0.3)
    last = np.array([option == len(formats) for _, option in items])
    total = TYPICAL_OF_ALL / (1 - TYPICAL_OF_ALL / MOST)
    logs += np.log(total) - np.log(np.exp(logs[last]).sum())
    prompts = search + OTHERS
    own = rng.normal(0, OWN, (len(items), prompts))
    latent_wrong = rng.normal(0, LATENT, len(items))
    errors = {}
    for estimator, left in ERRORS.items():
        wrong = left * LOG_DAMAGE / np.sqrt(LOG_DAMAGE**2 - left**2) * rng.normal(size=len(items))
        told = np.exp(0.7 * (logs - logs.mean() + wrong) - 3)
        errors[estimator] = dict(zip(items, map(float, told), strict=True))
    flips = FLIPS * rng.gamma(0.3, 1 / 0.3, prompts)
    saved = {(g, o): 1e6 * len(groups[g].fqns) for g, o in items}
    return Landscape(
        name=name,
        world=World(candidates, errors, saved, None),
        log_damages=logs[:, None] + own,
        sensitivities=np.exp(rng.normal(0, SENSITIVITY, prompts)),
        latents=0.5 * (logs + latent_wrong),
        flips=flips,
        search=search,
        seed=seed,
    )


def _groups(rng: np.random.Generator, formats: int) -> tuple[Group, ...]:
    """54 groups of nine roles in six bands; one role loses time, all others save a third together.

    As on tiny-flux, gains differ between roles (a standard deviation of the logarithm of
    `LOG_GAIN`), and hardly within one.
    """
    sizes = rng.integers(1, 7, len(ROLES))
    gains = np.exp(rng.normal(0, LOG_GAIN, len(ROLES)))
    gains[ROLES.index("norm.linear")] *= -0.05
    table = gains[:, None] * np.exp(rng.normal(0, 0.05, (len(ROLES), BANDS)))
    table *= SAVED / table[table > 0].sum()
    shares = (0.6, 1.0) if formats == 2 else (1.0,)
    made = []
    for r, role in enumerate(ROLES):
        for b in range(BANDS):
            fqns = tuple(f"blocks.{b}.{role}.{i}" for i in range(sizes[r]))
            made.append(
                Group(
                    name=f"blocks.{role}[{b}]",
                    fqns=fqns,
                    members=((), *(fqns for _ in shares)),
                    gains_s=(0.0, *(float(table[r, b]) * share for share in shares)),
                )
            )
    return tuple(made)


def _log_damages(rng: np.random.Generator, groups: Sequence[Group]) -> Array:
    """(groups,) logarithms of damages, of standard deviation `LOG_DAMAGE`: a part by what is saved,
    a part that a role has in common, a part of each group.
    """
    saved = np.log([abs(group.gains_s[-1]) for group in groups])
    role = np.repeat(rng.normal(0, 0.4, len(ROLES)), BANDS)
    logs = 0.3 * (saved - saved.mean()) + role + rng.normal(0, 0.75, len(groups))
    return np.asarray((logs - logs.mean()) * LOG_DAMAGE / logs.std())


def _misleading(name: str, seed: int) -> Landscape:
    """Layer sensitivities say the opposite of what is true, all but a little."""
    plain = additive(name, seed)
    rng, items = np.random.default_rng([1, seed]), items_of(plain.world.candidates)
    logs = plain.log_damages.mean(1)
    errors = {
        estimator: dict(
            zip(
                items,
                np.exp(-0.5 * (logs - logs.mean()) + rng.normal(0, 0.5, len(items)) - 3).tolist(),
                strict=True,
            )
        )
        for estimator in plain.world.errors
    }
    return replace(plain, world=replace(plain.world, errors=errors))


def _interactions(name: str, seed: int) -> Landscape:
    """A tenth of all pairs do up to twice more, or less, together than by themselves."""
    plain = additive(name, seed)
    rng, count = np.random.default_rng([2, seed]), len(plain.log_damages)
    pairs = np.array([(i, j) for i in range(count) for j in range(i) if rng.random() < 0.1])
    return replace(plain, pairs=pairs, strengths=rng.normal(0, 1.0, len(pairs)))


def _zeros(name: str, seed: int) -> Landscape:
    """A third of the groups do nothing at all, and LPIPS below 0.0003 is exactly 0; no floor."""
    plain = additive(name, seed)
    rng = np.random.default_rng([3, seed])
    nothing = rng.random(len(plain.log_damages)) < 1 / 3
    logs = np.where(nothing[:, None], -60.0, plain.log_damages)
    return replace(plain, log_damages=logs, exact=3e-4, floor=0.0)


KINDS: dict[str, Callable[[str, int], Landscape]] = {
    "additive": additive,
    "two formats": lambda name, seed: additive(name, seed, two_formats=True),
    "prior misleads": _misleading,
    "interactions": _interactions,
    "4 prompts": lambda name, seed: additive(name, seed, search=4),
    "200 prompts": lambda name, seed: additive(name, seed, search=200),
    "one prompt always flips": lambda name, seed: replace(additive(name, seed), always=True),
    "LPIPS of exactly 0": _zeros,
}


def make(kind: str, seed: int) -> Landscape:
    """The landscape of a kind and a seed."""
    return KINDS[kind](kind, seed)


def fitted(table: Table, seed: int) -> Landscape:
    """A landscape fitted to a table of real scores: damages of each group on each of its prompts.

    The groups' typical damages are fitted first, then each prompt's by itself, pulled to them; what
    is left is chance, and values far beyond it are flips. The errors of the latents are fitted as
    sums of squares.
    """
    candidates = table.world.candidates
    items = items_of(candidates)
    features = features_of(items, table.choices)
    used = features.any(1)
    values = np.maximum(np.hstack([table.search, table.fresh])[used], max(table.floor, 1e-6))
    features, logs = features[used], np.log(values)
    shared = fit_damages(items, table.choices[used], typical_of(values, 0.0))
    total = np.log(shared.typical(features))
    offset = np.median(logs - total[:, None], axis=0)
    rest = logs - total[:, None] - offset
    flipped = rest > 1.5
    share = features * shared.damages / (features @ shared.damages)[:, None]
    bend = 1 / (1 + (features @ shared.damages) / shared.most)
    design = share * bend[:, None]  # of log typical by each log damage
    pull = (CHANCE / OWN) ** 2 * np.eye(len(items))
    own = np.linalg.solve(design.T @ design + pull, design.T @ np.where(flipped, 0.0, rest))
    left = np.where(flipped, np.nan, rest - design @ own)
    flips = flipped.mean(0) * TYPICAL_OF_ALL / float(np.median(np.exp(total)))
    if table.latent.shape[1]:
        squares = np.maximum(table.latent[used], 1e-6).mean(1) ** 2
        latents = 0.5 * np.log(fit_damages(items, table.choices[used], squares).damages)
    else:
        latents = 0.5 * np.log(shared.damages)
    return Landscape(
        name=table.model,
        world=table.world,
        log_damages=np.log(shared.damages)[:, None] + own,
        sensitivities=np.exp(offset),
        latents=latents,
        flips=flips,
        search=table.search.shape[1],
        seed=seed,
        most=shared.most,
        chance=float(np.nanstd(left)),
        floor=table.floor,
    )
