"""Local Sphinx extension: self-contained pages, difficulty marks, a listing of the package."""

from __future__ import annotations

import re
from typing import Any

from api_listing import PackageListing
from docutils import nodes
from sphinx.application import Sphinx

_DIFFICULTY = re.compile(r"^(★{1,3})\s*·?\s*(\d+\s*min(?:utes|ute)?)\.?\s*")


def keep_pages_light(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Drop scripts that would fetch from a CDN, and plotly where a page has no figure."""
    body = context.get("body", "")

    def needed(file: Any) -> bool:
        name = str(getattr(file, "filename", file) or "")
        text = str(getattr(file, "attributes", {}).get("body") or "")
        if "thebe" in name or "THEBE_JS_URL" in text:
            return False
        return "plotly.min.js" not in name or "plotly-graph-div" in body

    for kind in ("script_files", "css_files"):
        context[kind] = [file for file in context.get(kind, []) if needed(file)]
    # docutils calls it a list, but its entries' own role is no list item: screen readers stumble.
    if "body" in context:
        context["body"] = body.replace('<div role="list" class="citation-list">', "<div>")


def share_html_handlers(app: Sphinx) -> None:
    """Let singlehtml draw what html can: an extension that registers one hides all others."""
    handlers = app.registry.translation_handlers
    if "singlehtml" in handlers:
        handlers["singlehtml"] = {**handlers.get("html", {}), **handlers["singlehtml"]}


def mark_difficulty(app: Sphinx, doctree: nodes.document) -> None:
    """Turn "★★ 10 minutes." at the start of an exercise into a badge."""
    for node in doctree.findall(nodes.Element):
        if node.tagname not in ("exercise_node", "exercise_enumerable_node"):
            continue
        text = next(iter(node.findall(lambda n: isinstance(n, nodes.Text) and "★" in n)), None)
        found = _DIFFICULTY.match(text.astext()) if text is not None else None
        if text is None or found is None:
            continue
        stars, minutes = found.groups()
        level = f"difficulty {len(stars)} of 3, {minutes}"
        badge = nodes.raw(
            "",
            f'<span class="difficulty" role="img" aria-label="{level}">{stars} {minutes}</span>',
            format="html",
        )
        text.parent.replace(text, [badge, nodes.Text(text.astext()[found.end() :])])


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the parts with Sphinx."""
    app.add_directive("package-listing", PackageListing)
    app.connect("builder-inited", share_html_handlers)
    app.connect("doctree-read", mark_difficulty)
    # After every extension that adds scripts of its own.
    app.connect("html-page-context", keep_pages_light, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
