"""Versions that must stand in two files agree."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "Dockerfile").exists():
    pytest.skip("the image holds none of these files", allow_module_level=True)

# Airflow's version in each runtime, from Astro's release notes for the runtime. No file in this
# repository has it, so a new tag in the Dockerfile needs a line here.
AIRFLOW_IN_RUNTIME = {"3.3-8": "3.3.2"}


def check_runtime(root: Path):
    runtime, python = re.search(
        r"^FROM \S+:(\S+)-python-(\S+)$", read(root, "Dockerfile"), re.MULTILINE
    ).groups()
    pyproject = tomllib.loads(read(root, "pyproject.toml"))
    assert dev(root)["apache-airflow"] == AIRFLOW_IN_RUNTIME[runtime]
    assert python in SpecifierSet(pyproject["project"]["requires-python"])


def check_deployment(root: Path):
    runtime = re.search(r"^FROM \S+:(\S+)-python-", read(root, "Dockerfile"), re.MULTILINE)[1]
    deployment = yaml.safe_load(read(root, "deploy/prod.yaml"))["deployment"]
    assert deployment["configuration"]["runtime_version"] == runtime


def check_image(root: Path):
    # The build of the runtime refuses a requirement of Airflow.
    assert "apache-airflow" not in image(root)


def check_dbt_projects(root: Path):
    for file in root.glob("dbt/*/dbt_project.yml"):
        wanted = yaml.safe_load(file.read_text()).get("require-dbt-version", [])
        wanted = wanted if isinstance(wanted, str) else ",".join(wanted)
        assert image(root)["dbt-core"] in SpecifierSet(wanted), file


def check_postgres(root: Path):
    tag = yaml.safe_load(read(root, ".astro/config.yaml"))["postgres"]["tag"]
    compose = yaml.safe_load(read(root, "docker-compose.override.yml"))
    assert compose["services"]["warehouse"]["image"] == f"postgres:{tag}"
    # A tag with the major version only is moved to newer images.
    assert "." in tag


CHECKS = [
    check_postgres,
    check_runtime,
    check_deployment,
    check_image,
    check_dbt_projects,
]


@pytest.mark.parametrize("check", CHECKS)
def test_versions_agree(check):
    check(ROOT)


def read(root: Path, path: str) -> str:
    return (root / path).read_text()


def image(root: Path) -> dict[str, str]:
    lines = read(root, "requirements.txt").splitlines()
    return pins(line for line in lines if line and not line.startswith("#"))


def dev(root: Path) -> dict[str, str]:
    return pins(tomllib.loads(read(root, "pyproject.toml"))["dependency-groups"]["dev"])


def pins(lines) -> dict[str, str]:
    found = {}
    for line in lines:
        requirement = Requirement(line)
        exact = re.fullmatch(r"==([^*,]+)", str(requirement.specifier))
        assert exact, f"{line} is no exact pin"
        found[requirement.name] = exact[1]
    return found
