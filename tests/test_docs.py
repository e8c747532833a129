"""Each fault in the tables of docs/reliability*.md names tests, and they are there."""

import re

import pytest

from tests.conftest import ROOT

# As the text above the tables says.
FOLDERS = {"I": "tests/integration", "L": "tests/local", "D": "tests/include/dbt_build"}
ROWS = [
    line
    for document in sorted((ROOT / "docs").glob("reliability*.md"))
    for line in document.read_text().splitlines()
    if line.startswith("| ") and not line.startswith(("| fault", "| ---"))
]


@pytest.mark.parametrize("row", ROWS)
def test_a_fault_has_its_tests(row):
    file = None
    tests = re.findall(r"`(?:(?:(\w) )?([\w/]+\.py)::)?(test_\w+)`", row.split(" | ")[-1])
    assert tests
    for folder, name, test in tests:
        file = f"{FOLDERS[folder]}/{name}" if folder else name or file
        assert f"def {test}(" in (ROOT / file).read_text(), f"{file}::{test}"
