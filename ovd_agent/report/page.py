"""A report's page: elements, the skeleton of every page, and its style sheet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, tostring

from retrieval_index.files import write_atomically


def write_page(path: Path, title: str, *content: Element) -> None:
    """Write one self-contained HTML file, atomically."""
    head = node(
        "head",
        node("meta", charset="utf-8"),
        node("meta", name="viewport", content="width=device-width, initial-scale=1"),
        node("title", title),
        node("style", STYLE),
    )
    page = node("html", head, node("body", node("main", *content)), lang="en")
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "<!doctype html>\n" + tostring(page, "unicode", "html")
    # A student may have written half of a surrogate pair, which UTF-8 cannot carry.
    write_atomically(path, text, errors="xmlcharrefreplace")


def node(tag: str, *children: Element | str, **attributes: object) -> Element:
    """An element of SVG or HTML. Text is escaped when it is serialised, so nothing that passes
    through here can become markup. `class_` is class, `stroke_width` is stroke-width."""
    named = {key.rstrip("_").replace("_", "-"): str(value) for key, value in attributes.items()}
    element = Element(tag, named)
    for child in children:
        if isinstance(child, Element):
            element.append(child)
        elif len(element):
            element[-1].tail = (element[-1].tail or "") + child
        else:
            element.text = (element.text or "") + child
    return element


COLOURS = ("#0062a3", "#c05600", "#00755a", "#8a3fa8", "#a3283f", "#6b6a00")
"""Classes c0 to c5 of the style, on light paper."""
_ON_DARK = ("#63b3ea", "#f0954a", "#3fc49c", "#cb9aea", "#f2849b", "#c9c552")


def _palette(colours: Sequence[str]) -> str:
    return " ".join(f"--c{place}: {colour};" for place, colour in enumerate(colours))


STYLE = (
    f"""
:root {{ {_palette(COLOURS)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_palette(_ON_DARK)} }} }}
"""
    + """
:root { color-scheme: light dark; --paper: #fdfdfb; --ink: #1c1f23; --soft: #5d646d;
  --rule: #dcdfe2; --wash: #f3f4f3; }
@media (prefers-color-scheme: dark) { :root { --paper: #15181b; --ink: #e4e6e8;
  --soft: #9aa2ab; --rule: #33393f; --wash: #1e2226; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "Liberation Sans", sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 3rem 1.25rem 4rem; }
h1, h2, h3, .lead { font-family: "Iowan Old Style", Charter, Georgia, "Liberation Serif", serif; }
h1 { font-size: 2.1rem; line-height: 1.15; margin: 0.2rem 0 0.6rem; font-weight: 600; }
h2 { font-size: 1.3rem; margin: 3.2rem 0 0.8rem; font-weight: 600; }
h3 { font-size: 1.2rem; line-height: 1.3; margin: 0.1rem 0 0.3rem; font-weight: 600; }
h4 { font-size: 0.8rem; margin: 0 0 0.5rem; color: var(--soft); font-weight: 600; }
.kicker { margin: 0; font-size: 0.8rem; color: var(--soft); }
.lead { font-size: 1.15rem; max-width: 42rem; margin: 0; }
.note, .missing { color: var(--soft); font-size: 0.85rem; }
.missing { font-style: italic; }
dl, dd { margin: 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr));
  gap: 1.4rem 2rem; margin: 2rem 0 0; border-top: 1px solid var(--rule); padding-top: 1.4rem; }
.tiles dt { font-size: 0.85rem; color: var(--soft); }
.tiles dd:not(.note) { font-size: 1.6rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.35rem 1.4rem 0.35rem 0; text-align: left; white-space: nowrap; }
th { font-weight: 500; }
thead th { color: var(--soft); border-bottom: 1px solid var(--ink); }
small { color: var(--soft); }
@media (max-width: 40rem) { main { padding-top: 1.5rem; } small { display: block; }
  .tiles { grid-template-columns: 1fr 1fr; } .tiles > :nth-child(-n+2) { grid-column: 1 / -1; }
  th, td { padding-right: 0.9rem; vertical-align: top; } }
tbody tr:last-child > * { border-top: 1px solid var(--rule); }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr));
  gap: 1.8rem 2rem; }
figure { margin: 0; }
figcaption { font-size: 0.8rem; margin-bottom: 0.4rem; }
figcaption b { font-size: 0.95rem; font-weight: 600; margin-right: 1rem; }
.key { margin-right: 1rem; white-space: nowrap; }
.key::before { content: ""; display: inline-block; width: 0.9em; height: 0.55em;
  margin-right: 0.4em; background: currentColor; border-radius: 2px; }
.c0 { color: var(--c0); } .c1 { color: var(--c1); } .c2 { color: var(--c2); }
.c3 { color: var(--c3); } .c4 { color: var(--c4); } .c5 { color: var(--c5); }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font-size: 12px; fill: var(--soft); font-variant-numeric: tabular-nums; }
svg .grid { stroke: var(--rule); } svg .zero { stroke: var(--soft); }
svg path { fill: none; stroke: currentColor; stroke-width: 2; stroke-linejoin: round; }
svg .faint { stroke-width: 1; opacity: 0.4; }
svg .interval { stroke: currentColor; stroke-width: 1.5; opacity: 0.6; }
svg .dot { fill: currentColor; stroke: var(--paper); stroke-width: 1.5; }
svg .bar { fill: currentColor; }
article { border-top: 1px solid var(--rule); padding: 1.3rem 0 1.6rem; }
.expected { margin: 0 0 0.4rem; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr));
  gap: 1.2rem 2rem; margin-top: 1rem; }
.pair > div { min-width: 0; }
ol { margin: 0; padding: 0; list-style: none; counter-reset: turn; }
ol > li { counter-increment: turn; padding: 0.1rem 0 0.9rem 1.7rem; position: relative; }
ol > li::before { content: counter(turn); position: absolute; left: 0; color: var(--soft);
  font-size: 0.85rem; font-variant-numeric: tabular-nums; }
.kind { font-size: 0.8rem; color: var(--soft); }
pre { font: 0.82rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace;
  margin: 0.15rem 0 0.35rem; padding: 0.45rem 0.6rem; background: var(--wash); border-radius: 4px;
  white-space: pre-wrap; overflow-wrap: anywhere; max-height: 24rem; overflow-y: auto; }
.tag { color: var(--soft); }
.said { margin: 0.2rem 0; font-size: 0.88rem; }
.badge { display: inline-block; min-width: 1.5em; padding: 0 0.4em; border-radius: 4px;
  background: #6a6e76; color: #fff; text-align: center; font-weight: 600; margin-right: 0.3em; }
details { font-size: 0.85rem; color: var(--soft); }
summary { cursor: pointer; overflow-wrap: anywhere; }
details ul { margin: 0.3rem 0; padding-left: 1rem; color: var(--ink); }
details em { font-style: normal; color: var(--c2); margin-left: 0.4em; }
.observation { margin: 0.2rem 0; font-size: 0.85rem; color: var(--soft); white-space: pre-wrap; }
.end { margin: 0; padding-top: 0.5rem; border-top: 1px solid var(--rule); overflow-wrap: anywhere; }
.verdict { font-weight: 600; } .right { color: var(--c0); } .wrong { color: var(--c1); }
.end .note { float: right; padding-left: 1rem; }
.options { columns: 16rem; column-gap: 2rem; font-size: 0.8rem; }
.options div { display: flex; justify-content: space-between; gap: 1rem; break-inside: avoid; }
.options dt { color: var(--soft); }
.terms div { padding: 0.2rem 0; } .terms dt { font-weight: 600; font-size: 0.9rem; }
.terms dd { font-size: 0.9rem; color: var(--soft); }
.options dd { overflow-wrap: anywhere; text-align: right; }
"""
)
