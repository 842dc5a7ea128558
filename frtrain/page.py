"""What frtrain's HTML pages share: one self-contained file, no script, no network, pictures inside."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from string import Template

ACCENT, WARNING = "#1b6ca8", "#c8553d"
"""Colours of what is shown, and of what is wrong."""


def page(title: str, body: str) -> str:
    """A whole page.

    Args:
        title: plain text.
        body: HTML.
    """
    return _PAGE.substitute(title=escape(title), body=body)


def table(cells: Sequence[Sequence[str]], header: Sequence[str] = ()) -> str:
    """A table of cells that are HTML already."""
    head = "<thead><tr>" + "".join(f"<th>{cell}</th>" for cell in header) + "</tr></thead>" if header else ""
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in cells)
    return f"<table>{head}<tbody>{body}</tbody></table>"


def figure(content: bytes, caption: str, kind: str = "png") -> str:
    """A picture with its caption below.

    Args:
        content: the encoded picture.
        caption: plain text.
        kind: of the encoding: png or jpeg.
    """
    caption = escape(caption)
    return f'<figure><img alt="{caption}" src="{data_uri(content, kind)}"><figcaption>{caption}</figcaption></figure>'


def data_uri(content: bytes, kind: str) -> str:
    """An encoded picture as the address of an `<img>`."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def headline(facts: Sequence[tuple[str, str]]) -> str:
    """A few large numbers, each with what it is, side by side; plain text."""
    items = "".join(f"<div><b>{escape(value)}</b><span>{escape(what)}</span></div>" for value, what in facts)
    return f'<div class="headline">{items}</div>'


_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; color: #222; background: #fff;
  max-width: 1100px; margin: 2rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.6rem; margin: 0 0 1rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
.headline { display: flex; flex-wrap: wrap; gap: 2.5rem; margin: 1rem 0 1.4rem; }
.headline b { display: block; font-size: 1.7rem; font-weight: 600; }
.headline span, .note, figcaption, th, .facts td:first-child, .results td:last-child { color: #666; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; }
th, td { padding: .28rem 1.4rem .28rem 0; border-bottom: 1px solid #eee; vertical-align: top; }
.facts td, .names { overflow-wrap: anywhere; }
.facts td:first-child, .results td:nth-child(-n+4) { white-space: nowrap; }
.results td:nth-child(2) { font-weight: 600; }
.numbers td:not(:first-child), .numbers th:not(:first-child) { text-align: right; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); gap: 1.5rem; }
.thumbnails { display: flex; flex-wrap: wrap; gap: .7rem; margin: .4rem 0 1.1rem; }
.groups { display: flex; flex-wrap: wrap; gap: 0 2.5rem; }
.thumbnails figure { width: 112px; }
.thumbnails figcaption { font-size: .75rem; line-height: 1.3; overflow-wrap: anywhere; }
figure { margin: 0; }
img { max-width: 100%; }
figcaption { font-size: .9rem; }
.warning { background: #fdf1e3; border-left: 4px solid #d98324; padding: .6rem 1rem; }
</style></head><body>
<h1>$title</h1>
$body
</body></html>
""")
