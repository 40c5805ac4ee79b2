"""Which Linears of a model do the lists quantize that people write by hand?

There are two kinds: the study's rule of thumb, and lists that were published for the model.

    rule_of_thumb(table, spec)                  # FQNs that it quantizes
    published_list(table, spec.published[0])
"""

from sensitivity.core.patterns import expand
from sensitivity.shapes.table import ShapeTable
from sensitivity.spec.hand_lists import PublishedList
from sensitivity.spec.study_spec import StudySpec


def published_list(table: ShapeTable, listed: PublishedList) -> set[str]:
    """FQNs that a published list quantizes: not matched by its globs, and min(K, N) at least
    `min_width`.
    """
    skipped = expand(list(listed.skip), [x.fqn for x in table.linears], table.components).matched
    return {
        x.fqn for x in table.linears if x.fqn not in skipped and min(x.k, x.n) >= listed.min_width
    }


def rule_of_thumb(table: ShapeTable, spec: StudySpec) -> set[str]:
    """FQNs that the rule of thumb quantizes: not matched by its globs, and min(M, K, N) at least
    `min_dim`, at the scale that is priced.
    """
    rule = spec.rule_of_thumb
    patterns = [entry.pattern for entry in rule.skip]
    skipped = expand(patterns, [x.fqn for x in table.linears], table.components).matched
    return {
        x.fqn for x in table.linears if x.fqn not in skipped and min(x.m, x.k, x.n) >= rule.min_dim
    }
