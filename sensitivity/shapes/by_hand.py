"""The lists that people write by hand, on the Linears of one model: the rule of thumb and published
lists.
"""

from sensitivity.core.patterns import expand
from sensitivity.shapes.table import ShapeTable
from sensitivity.spec.hand_lists import PublishedList
from sensitivity.spec.study_spec import StudySpec


def published_list(table: ShapeTable, listed: PublishedList) -> set[str]:
    """FQNs that a published list quantizes."""
    named = expand(
        list(listed.skip), [linear.fqn for linear in table.linears], table.components
    ).matched
    return {
        x.fqn for x in table.linears if x.fqn not in named and min(x.k, x.n) >= listed.min_width
    }


def rule_of_thumb(table: ShapeTable, spec: StudySpec) -> set[str]:
    """FQNs that the rule of thumb quantizes: no name of its globs, and min(M, K, N) at the priced
    scale not below its limit.
    """
    fqns = [linear.fqn for linear in table.linears]
    named = expand(
        [entry.pattern for entry in spec.rule_of_thumb.skip], fqns, table.components
    ).matched
    return {
        x.fqn
        for x in table.linears
        if x.fqn not in named and min(x.m, x.k, x.n) >= spec.rule_of_thumb.min_dim
    }
