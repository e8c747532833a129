"""The sample can be removed: no other file names it."""

import re
import subprocess
import tomllib

import pytest

from tests.conftest import ROOT

if not (ROOT / ".git").exists():
    pytest.skip("the image is no repository", allow_module_level=True)

# The only files outside of the sample that name it.
NAMING_FILES = {"README.md", "local.toml"}


def test_no_other_file_names_the_sample():
    sample = tomllib.loads((ROOT / "local.toml").read_text())["sample"]
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    others = [
        file
        for file in listed.stdout.splitlines()
        if not any(file == path or file.startswith(f"{path}/") for path in sample)
    ]
    assert len(others) > 100
    naming = {
        file
        for file in others
        if (ROOT / file).is_file()
        and re.search("flight|nyc", f"{file} {(ROOT / file).read_text(errors='replace')}", re.I)
    }
    assert naming == NAMING_FILES
