"""Variables in the values of one document, replaced before anything is merged or validated."""

from __future__ import annotations

from collections.abc import Mapping

from supervisor.compose.problems import Findings
from supervisor.compose.template import TemplateError, substitute
from supervisor.compose.tree import Node


class Interpolation:
    """Replaces variables in the values of a document, and notes those without a value once each."""

    def __init__(
        self, variables: Mapping[str, str], findings: Findings, told: set[str] | None = None
    ) -> None:
        """told: names that were noted already, in other files; grows."""
        self.variables = variables
        self.findings = findings
        self.told = set() if told is None else told

    def node(self, node: Node, path: str) -> Node:
        """A node with the values of its variables. path: of the node, for what is noted."""
        match node.value:
            case str() as text if "$" in text:
                return node.with_value(self._text(text, node, path))
            case dict() as entries:
                changed = {
                    key: self.node(item, f"{path}.{key}" if path else key) for key, item in entries.items()
                }
                return Node(changed, node.mark, node.keys, None, node.tag)
            case list() as items:
                listed = [self.node(item, f"{path}[{index}]") for index, item in enumerate(items)]
                return Node(listed, node.mark, node.keys, None, node.tag)
            case _:
                return node

    def _text(self, text: str, node: Node, path: str) -> str:
        def unset(name: str) -> None:
            if name not in self.told:
                self.told.add(name)
                self.findings.warn(
                    node.mark,
                    path,
                    f'the variable "{name}" is not set, a blank string is used',
                    f"set it, or write ${{{name}:-}}",
                )

        try:
            return substitute(text, self.variables.get, unset)
        except TemplateError as error:
            self.findings.error(node.mark, path, f"{path}: {error}", error.hint)
            return text
