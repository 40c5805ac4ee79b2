"""What a gate found, as lines: the verdict, a line for each criterion, and what it rests on.

    for text, style in check_lines(checked):
        print_line(console, text, style=style)

    tiny-flux-nvfp4-b200 fails the gate
    passes     mean LPIPS <= 0.15: 0.0163 [0.0101, 0.0262]
    fails      flips <= 2: 4 of 24
    undecided  speedup >= 1.2: 1.250x [1.180, 1.310]; predicted for b200, batch 1; ...

Lines are not wrapped, so that a log has one line for each criterion.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from sensitivity.core.words import printable
from sensitivity.workflows.criteria import Criterion, Decision
from sensitivity.workflows.gate import Checked

EXIT_CODES: Mapping[Decision, int] = MappingProxyType(
    {Decision.PASSES: 0, Decision.FAILS: 1, Decision.UNDECIDED: 3}
)
"""2 is a mistake of the user, as with every command."""
_VERDICTS = {
    Decision.PASSES: "passes the gate",
    Decision.FAILS: "fails the gate",
    Decision.UNDECIDED: "neither passes nor fails the gate",
}
_STYLES = {
    Decision.PASSES: "green",
    Decision.FAILS: "bold red",
    Decision.UNDECIDED: "yellow",
}


def check_lines(checked: Checked) -> Iterator[tuple[str, str]]:
    """(line, rich style) of what a gate found; fields are in backticks."""
    decision = checked.decision
    yield f"{printable(checked.recipe.name)} {_VERDICTS[decision]}", _STYLES[decision]
    for criterion in checked.criteria:
        text = f"{criterion.decision.value:<9}  {criterion_words(criterion)}"
        yield text, _STYLES[criterion.decision]
    if (basis := basis_words(checked)) != "":
        yield basis, ""
    if checked.recipe.caveat:
        yield checked.recipe.caveat, "dim"
    yield f"{_counts(checked)}: exits with {EXIT_CODES[decision]}", ""


def criterion_words(criterion: Criterion) -> str:
    """What was asked, what was found, and why: "flips <= 2: 4 of 24"."""
    why = f"; {criterion.why}" if criterion.why else ""
    return printable(f"{criterion.asked}: {criterion.found}{why}")


def basis_words(checked: Checked) -> str:
    """On which pictures it rests; "" where none were drawn."""
    drawn = checked.drawn
    if drawn is None:
        return ""
    prompts = len(drawn.score.per_prompt)
    return printable(
        f"on {prompts} unseen prompts, drawn {drawn.execution.words}; LPIPS {drawn.score.net};"
        f" weights {drawn.weights_sha256[:12]}"
    )


def _counts(checked: Checked) -> str:
    """How many criteria there are of each decision: "2 pass, 1 fails"."""
    words = {
        Decision.PASSES: ("passes", "pass"),
        Decision.FAILS: ("fails", "fail"),
        Decision.UNDECIDED: ("undecided", "undecided"),
    }
    found = [criterion.decision for criterion in checked.criteria]
    counts = ((found.count(one), forms) for one, forms in words.items())
    return ", ".join(f"{n} {forms[n != 1]}" for n, forms in counts if n)
