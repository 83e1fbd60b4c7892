"""What docs/scaling.md says of layouts is what the calculation says."""

from pathlib import Path

import pytest

from benchmarks.scaling import LAYOUTS, Layout, Options, gpu_seconds, main, seconds

DOCS = Path(__file__).parents[2] / "docs" / "scaling.md"


@pytest.mark.parametrize("options", [Options(), Options("1.5b", "14b", tensor_parallel=1)])
def test_the_tables_of_the_documentation_are_those_of_the_script(options, capsys):
    main(options)
    assert capsys.readouterr().out in DOCS.read_text("utf-8")


def test_twice_the_gpus_take_half_the_time():
    work = gpu_seconds(Options(), 1)
    few, many = seconds(Layout("", 2, 4, 1), work), seconds(Layout("", 4, 8, 2), work)
    assert {name: value / 2 for name, value in few.items()} == pytest.approx(many)
    assert all(
        each.teacher + each.learner + each.student == count
        for count, layouts in LAYOUTS.items()
        for each in layouts
    )
