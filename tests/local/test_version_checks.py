"""Each check in tests/test_versions.py, which a fork keeps, can fail."""

import re
import shutil

import pytest

from tests.conftest import ROOT
from tests.test_versions import (
    check_dbt_projects,
    check_deployment,
    check_image,
    check_postgres,
    check_runtime,
    read,
)

FILES = [
    ".astro/config.yaml",
    "Dockerfile",
    "deploy/prod.yaml",
    "docker-compose.override.yml",
    "pyproject.toml",
    "requirements.txt",
]


@pytest.mark.parametrize(
    ("check", "file", "old", "new"),
    [
        (check_postgres, ".astro/config.yaml", r"17\.\d+", "16.1"),
        (check_runtime, "pyproject.toml", r"apache-airflow==.*\d", "apache-airflow==3.3.1"),
        (check_runtime, "Dockerfile", r"-python-3\.\d+", "-python-3.14"),
        (check_deployment, "deploy/prod.yaml", r"3\.3-8", "3.3-7"),
        (
            check_image,
            "requirements.txt",
            "^",
            "apache-airflow==3.3.2\n",
        ),
        (check_dbt_projects, "requirements.txt", r"dbt-core==.*", "dbt-core==2.0.0"),
    ],
)
def test_checks_can_fail(tmp_path, check, file, old, new):
    for path in FILES:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    project = tmp_path / "dbt" / "any" / "dbt_project.yml"
    project.parent.mkdir(parents=True)
    project.write_text('{name: any, require-dbt-version: [">=1.11.0", "<2.0.0"]}')
    check(tmp_path)
    changed, count = re.subn(old, new, read(tmp_path, file), count=1)
    assert count == 1
    (tmp_path / file).write_text(changed)
    with pytest.raises(AssertionError):
        check(tmp_path)
