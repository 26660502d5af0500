"""The package's public names, read from its source without importing it."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

__all__ = ["Entry", "Module", "PackageListing", "read_package"]

Definition = ast.FunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Entry:
    """A public class, function or method: how to call it and what it is."""

    signature: str
    summary: str
    methods: list[Entry] = field(default_factory=list)


@dataclass(frozen=True)
class Module:
    """A module of the package that says, by `__all__`, what it offers."""

    name: str
    summary: str
    entries: list[Entry]


def read_package(root: Path) -> list[Module]:
    """The modules under `root` that define public names, in order of their names."""
    found = []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        entries = list(_entries(tree))
        if entries:
            found.append(Module(name, _summary(tree), entries))
    return sorted(found, key=lambda module: module.name)


def _entries(tree: ast.Module) -> Iterator[Entry]:
    """The classes and functions that the module defines and names in `__all__`, in that order."""
    public: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            public = ast.literal_eval(node.value)
    defined = {node.name: node for node in tree.body if isinstance(node, Definition)}
    for name in public:
        if name in defined:
            yield _entry(defined[name])


def _entry(node: Definition) -> Entry:
    """What a listing says of one definition."""
    if isinstance(node, ast.FunctionDef):
        return Entry(_signature(node), _summary(node))
    methods = [
        _entry(part)
        for part in node.body
        if isinstance(part, ast.FunctionDef) and not part.name.startswith("_")
    ]
    init = [p for p in node.body if isinstance(p, ast.FunctionDef) and p.name == "__init__"]
    if init:
        call = _signature(init[0]).replace("__init__", node.name, 1)
    else:
        fields = [p.target.id for p in node.body if _is_field(p)]  # type: ignore[attr-defined]
        call = f"{node.name}({', '.join(fields)})" if fields else node.name
    return Entry(call, _summary(node), methods)


def _is_field(node: ast.stmt) -> bool:
    """Whether a statement of a class body declares a public field."""
    return (
        isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and not node.target.id.startswith("_")
        and "ClassVar" not in ast.unparse(node.annotation)
    )


def _signature(node: ast.FunctionDef) -> str:
    """The call without types: names, defaults, stars."""
    decorators = {ast.unparse(d) for d in node.decorator_list}
    if "property" in decorators:
        return node.name
    arguments = node.args
    for argument in ast.walk(arguments):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    text = re.sub(r"^(self|cls)(, |$)", "", ast.unparse(arguments))
    text = re.sub(r"^/, ", "", text)
    return f"{node.name}({text})"


def _summary(node: ast.Module | Definition) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())


def _prose(text: str) -> list[nodes.Node]:
    """A docstring's line with its `names` set as code."""
    parts = re.split(r"`+([^`]+)`+", text)
    return [
        nodes.literal("", part) if i % 2 else nodes.Text(part)
        for i, part in enumerate(parts)
        if part
    ]


def _definitions(entries: list[Entry]) -> nodes.definition_list:
    """A definition list of entries, with the methods of classes nested."""
    items = nodes.definition_list(classes=["api"])
    for entry in entries:
        body = nodes.definition("", nodes.paragraph("", "", *_prose(entry.summary)))
        if entry.methods:
            body += _definitions(entry.methods)
        term = nodes.term("", "", nodes.literal("", entry.signature))
        items += nodes.definition_list_item("", term, body)
    return items


class PackageListing(SphinxDirective):
    """`{package-listing} NAME`: one section a module, one entry a public name."""

    required_arguments: ClassVar[int] = 1

    def run(self) -> list[nodes.Node]:
        """The sections of the listing."""
        name = self.arguments[0]
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            raise self.error(f"no package {name!r} here: install it into this environment")
        sections: list[nodes.Node] = []
        for module in read_package(Path(spec.submodule_search_locations[0])):
            section = nodes.section(ids=[nodes.make_id(module.name)], names=[module.name])
            section += nodes.title("", "", nodes.literal("", module.name.removeprefix(f"{name}.")))
            section += nodes.paragraph("", "", *_prose(module.summary))
            section += _definitions(module.entries)
            sections.append(section)
        return sections
