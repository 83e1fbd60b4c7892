"""Every algorithm has a page, and the page has its options as they are."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from ovd_agent.algorithms import ALGORITHMS
from ovd_agent.cli.parse import field_help

PAGES = Path(__file__).parents[2] / "docs" / "algorithms"
HEADINGS = [
    *("Idea", "Formula and source", "Options", "Cost", "Result on our benchmark"),
    "When not to use it",
]


def options(cls: type, prefix: str = "") -> dict[str, tuple[str, str]]:
    """Default and help of every option, nested ones too."""
    found: dict[str, tuple[str, str]] = {}
    for each in dataclasses.fields(cls):
        if not each.init:
            continue
        missing = each.default is dataclasses.MISSING
        default = each.default_factory() if missing else each.default
        if dataclasses.is_dataclass(default):
            for name, (_, said) in options(type(default), f"{prefix}{each.name}.").items():
                value = getattr(default, name.rpartition(".")[2])
                found[name] = (str(value) or '""', said)
        else:
            found[prefix + each.name] = (str(default) or '""', field_help(cls).get(each.name, ""))
    return found


@pytest.mark.parametrize("name", ALGORITHMS.names())
def test_an_algorithm_has_a_page_with_its_options(name):
    text = (PAGES / f"{name}.md").read_text("utf-8")
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == HEADINGS
    table = text.partition("## Options")[2].partition("## Cost")[0]
    lines = table.splitlines()[4:]
    rows = dict(line[2:].split(" | ", 1) for line in lines if line)
    mine = options(ALGORITHMS.entry(name).options)
    assert rows.keys() == {f"`{each.replace('_', '-')}`" for each in mine}
    for option, (default, said) in mine.items():
        said = " ".join(said.split()).replace("|", "\\|")
        assert rows[f"`{option.replace('_', '-')}`"] == f"`{default}` | {said} |"


def test_the_index_names_them_all():
    text = (PAGES / "README.md").read_text("utf-8")
    assert all(f"[`{name}`]({name}.md)" in text for name in ALGORITHMS.names())
