"""YAML that is safe to read and has one meaning.

    parse_yaml("default_stage: {}")

Aliases are refused, since a small text with aliases can become a huge value. Keys that appear twice
are refused, as in JSON (`core.json_files`). Tags that would construct Python objects are unknown.
"""

from typing import Any

import yaml

from sensitivity.errors import PatternError


def parse_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        PatternError: an alias, or a key that appears twice.
        yaml.YAMLError, ValueError, RecursionError: it is no YAML.
    """
    return yaml.load(text, Loader=_StrictLoader)


class _StrictLoader(yaml.SafeLoader):
    """YAML without aliases and without repeated keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise PatternError(
                f"found an alias (*{event.anchor}); expected YAML without aliases; write the value"
                " out"
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        mapping = super().construct_mapping(node, deep=deep)
        if len(mapping) != len(node.value):
            raise PatternError(
                f"line {node.start_mark.line + 1}: found a key twice; expected each once; take one"
                " out"
            )
        return mapping
