"""A small corpus for builds that are watched, stopped and killed."""

import json

import pytest

ROWS = 90


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.jsonl"
    rows = [{"id": f"p{n}", "title": f"T{n}", "text": f"word{n % 9} text {n}"} for n in range(ROWS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
