"""A dbt project and everything that decides how dbt parses it."""

import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import yaml
from airflow.dag_processing.bundles.base import get_bundle_storage_root_path
from cosmos import ProfileConfig, settings
from cosmos.dbt.project import get_dbt_packages_subpath

PACKAGE_FILES = ("packages.yml", "dependencies.yml")
LOCK_FILE = "package-lock.yml"
# Variables that differ from run to run. dbt parses with these values, so that DAGs with different
# values share a parse. If the project reads one of the variables, each run parses again.
RUN_VARIABLES = {"DBT_EVENT_TIME_START": "2000-01-01", "DBT_EVENT_TIME_END": "2000-01-02"}
# The engine reads dbt's artifacts, so dbt writes them even if the project's flags turn them off.
WRITE_JSON = {"DBT_ENGINE_WRITE_JSON": "true", "DBT_WRITE_JSON": "true"}


@dataclass(frozen=True)
class DbtProject:
    """A dbt project with the arguments that decide how dbt parses it.

    Two DAGs share a working directory, and so one parse, if these arguments are equal, apart from
    the variables of an event time range.

    Args:
        path: the folder with dbt_project.yml. Nothing is written into it.
        profile: Cosmos's profile.
        variables: dbt's variables, as `--vars`.
        environment: environment variables that dbt gets beside those of its process.
        executable: the path of an external dbt, or None if dbt runs in this process.
        installs_packages: whether `dbt deps` may run.
        uses_mock_profile: whether dbt parses with placeholders instead of the Airflow connection.
        manifest: a manifest.json that was made elsewhere, or None if dbt parses the project.
    """

    path: Path
    profile: ProfileConfig
    variables: Mapping = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    executable: str | None = None
    installs_packages: bool = True
    uses_mock_profile: bool = True
    manifest: Path | None = None

    @property
    def cache(self) -> Path:
        """Return the folder in Cosmos's cache that belongs to this project and its arguments."""
        profile, mapping = self.profile, self.profile.profile_mapping
        inputs = {
            **vars(self),
            "profile": [
                *(profile.profile_name, profile.target_name, profile.profiles_yml_filepath),
                mapping and [type(mapping).__name__, mapping.conn_id, mapping.profile_args],
            ],
            "environment": {k: v for k, v in self.environment.items() if k not in RUN_VARIABLES},
        }
        name = f"{self.profile.target_name}-{digest(inputs)}"
        return Path(settings.cache_dir, "dbt_projects", name)

    @property
    def workdir(self) -> Path:
        """Return the working directory: where dbt finds the project, its packages and its parse.

        Its path ends with the last four folders of the project's path. So a relative path that
        leaves the project, such as the path of a local package, still leads into the cache.
        """
        return self.cache.joinpath(*self.path.parts[1:][-4:])

    @property
    def target(self) -> Path:
        """Return dbt's target folder, with the files that dbt writes when it parses the project."""
        return self.workdir / "target"

    @property
    def inputs_file(self) -> Path:
        """Return the file that describes what the working directory was made from.

        Its content differs each time that the working directory is made.
        """
        return self.target / "dbt_build_inputs.json"

    @property
    def parse_environment(self) -> dict[str, str]:
        """Return the environment in which dbt parses the project."""
        return {**os.environ, **self.environment, **RUN_VARIABLES}


def digest(inputs) -> str:
    """Return a hash of values that can be written as JSON, or as text."""
    return sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()[:12]


def fingerprint(names: Iterable[str], environment: Mapping[str, str]) -> dict[str, str | None]:
    """Return a hash of each variable's value, because the values may be secret."""
    return {
        name: sha256(environment[name].encode()).hexdigest() if name in environment else None
        for name in names
    }


def read_yaml(file: Path) -> dict:
    # The errors of the parser name the file only if the parser reads it.
    with file.open() as text:
        return yaml.safe_load(text) or {}


def packages_folder(path: Path) -> Path:
    """Return the folder into which dbt installs packages, relative to the project."""
    return Path(get_dbt_packages_subpath(path))


def check_bundle(project: Path) -> None:
    """Check that a DAG of a versioned DAG bundle builds the dbt project of its own version.

    Python looks for `include` in the image first, so a path that starts there leads to the image.

    Raises:
        ValueError: the bundle has a project of that name, and the DAG builds one outside of it.
    """
    bundles = get_bundle_storage_root_path()
    if project.is_relative_to(bundles):
        return
    name = Path(*project.parts[-2:])
    # Airflow adds the bundle of the DAG file to the Python path, or a subfolder that has its DAGs.
    folders = [folder for path in map(Path, sys.path) for folder in (path, *path.parents)]
    for folder in folders:
        other = folder / name
        if folder.is_relative_to(bundles) and (other / "dbt_project.yml").is_file():
            raise ValueError(
                f"The DAG builds {project}, but its DAG bundle has a {name} of its own, which can "
                f"be another version. Name the path relative to the DAG file, or remove {other}."
            )
