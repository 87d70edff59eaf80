"""`/docs`: the OpenAPI description as one page of plain HTML.

The usual documentation pages load scripts from a foreign host into the origin where people paste their
token. This page loads nothing, so it also works without a network; programs read `/openapi.json`.
"""

from __future__ import annotations

import json
from html import escape
from typing import Any

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "code,pre{font:13px/1.45 ui-monospace,monospace}pre{overflow:auto;padding:.7rem;border:1px solid #8886}"
    "h3{margin:2rem 0 .2rem}.verb{display:inline-block;min-width:4rem;font-weight:700}"
)


def docs_page(schema: dict[str, Any]) -> tuple[str, str]:
    """The page for an OpenAPI schema, and the content security policy to send with it."""
    info = schema["info"]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        f"<title>{escape(info['title'])}</title><style>{_STYLE}</style>",
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>",
        f"<p>{escape(info.get('description', ''))}</p>",
        "<p>For programs: <a href=/openapi.json>openapi.json</a></p>",
    ]
    for path, operations in schema["paths"].items():
        for verb, operation in operations.items():
            parts.append(_operation(path, verb, operation))
    parts.append("<h2>Shapes</h2>")
    for name, shape in sorted(schema.get("components", {}).get("schemas", {}).items()):
        parts.append(
            f"<h3 id={escape(name)}>{escape(name)}</h3><p>{escape(shape.get('description', ''))}</p>"
        )
        parts.append(
            f"<pre>{escape(json.dumps(shape.get('properties', shape), indent=1, ensure_ascii=False))}</pre>"
        )
    return "\n".join(parts), POLICY


def _operation(path: str, verb: str, operation: dict[str, Any]) -> str:
    lines = [
        f"<h3><span class=verb>{escape(verb.upper())}</span> <code>{escape(path)}</code></h3>",
        f"<p>{escape(operation.get('summary', ''))}</p><ul>",
    ]
    for parameter in operation.get("parameters", []):
        note = parameter.get("description", "")
        lines.append(
            f"<li>{escape(parameter['in'])} <code>{escape(parameter['name'])}</code> {escape(note)}</li>"
        )
    body = operation.get("requestBody", {})
    if body:
        lines.append(f"<li>body {_link(body)}</li>")
    for status, response in operation.get("responses", {}).items():
        lines.append(
            f"<li>{escape(status)} {_link(response) or escape(response.get('description', ''))}</li>"
        )
    return "".join(lines) + "</ul>"


def _link(content: dict[str, Any]) -> str:
    reference = content.get("content", {}).get("application/json", {}).get("schema", {}).get("$ref", "")
    name = escape(reference.rsplit("/", 1)[-1])
    return f"<a href=#{name}>{name}</a>" if name else ""
