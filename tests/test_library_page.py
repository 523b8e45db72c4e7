"""The examples of docs/library.md, run top to bottom in one namespace, each code block a test of its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[1] / "docs" / "library.md"
TEXT = PAGE.read_text(encoding="utf-8")
FENCED = re.compile(r"```python\n(.*?)```", re.DOTALL)
#: (line of the page, code) of each example.
BLOCKS = [(TEXT.count("\n", 0, found.start(1)) + 1, found[1]) for found in FENCED.finditer(TEXT)]


@pytest.fixture(scope="module")
def names():
    """What the examples so far have defined."""
    return {"ran": []}


@pytest.mark.parametrize(("line", "code"), BLOCKS, ids=[f"line{line}" for line, _ in BLOCKS])
def test_example(names, line, code):
    for before, text in BLOCKS:  # a block chosen alone still needs what those above it define
        if before < line and before not in names["ran"]:
            exec(compile("\n" * (before - 1) + text, str(PAGE), "exec"), names)
            names["ran"].append(before)
    exec(compile("\n" * (line - 1) + code, str(PAGE), "exec"), names)
    names["ran"].append(line)


def test_the_page_has_examples_that_assert():
    assert len(BLOCKS) >= 8
    assert all("assert" in code or "raises" in code for _, code in BLOCKS)
