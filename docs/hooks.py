"""What the site needs beyond the pages: links to files of the repository that are no pages, and
formulas as MathML, which browsers show without a script."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(((?:\.\./)+[^)#\s]*)(#[^)\s]*)?\)")
_FORMULA = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Point a link out of `docs/` at the repository, or where the site has none, drop the link.

    Raises FileNotFoundError for a file that is not there.
    """
    docs = Path(config["docs_dir"]).resolve()
    here = docs / Path(page.file.src_uri).parent

    def rewritten(found: re.Match[str]) -> str:
        target = (here / found[2]).resolve()
        if target.is_relative_to(docs):
            return found[0]
        if not target.exists():
            raise FileNotFoundError(f"{page.file.src_uri}: {found[2]} does not exist")
        path = target.relative_to(docs.parent)
        if config["repo_url"]:
            return f"[{found[1]}]({config['repo_url'].rstrip('/')}/blob/main/{path})"
        return f"`{path}`" if found[1].strip("`") == target.name else f"{found[1]} (`{path}`)"

    return _LINK.sub(rewritten, markdown)


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:
    return _FORMULA.sub(lambda found: str(convert(html.unescape(found[1]))), content)
