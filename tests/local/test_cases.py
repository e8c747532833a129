"""dbt projects of many kinds can be brought in, and what they need is reported."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.conftest import HAS_POSTGRES, ROOT, SETTINGS, free_port
from tests.fixtures import commit, git, write

if not (HAS_POSTGRES and (ROOT / ".git").exists()):
    pytest.skip("needs a clone, which the image is not", allow_module_level=True)

from local import postgres
from local.findings import Findings, check
from local.projects import add
from local.settings import Failure, Settings

pytestmark = pytest.mark.slow

PROJECT = "{name: shop, profile: shop, flags: {send_anonymous_usage_stats: false}}"
SOURCE = "sources: [{name: raw, schema: %s, tables: [%s]}]"
READS_ORDERS = "select * from {{ source('raw', 'orders') }}"


@pytest.fixture
def settings(tmp_path) -> Settings:
    own = ("DBT_PROJECTS_DIR", "DBT_TARGET", "PYTHON_DOTENV_DISABLED")
    environment = {name: value for name, value in os.environ.items() if name not in own}
    # dbt reads this variable, which a shell can have for another project.
    environment["DBT_PROJECT_DIR"] = "/nowhere"
    return replace(
        SETTINGS, home=tmp_path / "home", environment=environment, warehouse_port=free_port()
    )


@pytest.fixture
def bring_in(clone, settings, tmp_path):
    """A function that brings in a project with these files; its findings."""

    def bring_in(files: dict[str, str], source: str = "theirs", builds: bool = False) -> Findings:
        folder = write(tmp_path / "theirs", {"dbt_project.yml": PROJECT} | files)
        found = folder.parent / source
        return add(settings, clone, str(found), None, load=False, parse_only=not builds)[1]

    return bring_in


def run_in(clone: Path, settings: Settings, *words: str) -> subprocess.CompletedProcess:
    ports = {"WAREHOUSE_PORT": settings.warehouse_port, "LOCAL_HOME": str(settings.home)}
    return subprocess.run(
        [sys.executable, "-m", "local", *words],
        cwd=clone,
        env={**settings.environment, **ports},
        capture_output=True,
        text=True,
    )


def test_files_that_the_project_ignores_are_committed_or_not_needed(
    bring_in, clone, settings, tmp_path
):
    ignored = "profiles.yml\npackage-lock.yml\nmacros/\n"
    model = "select 1 as id"
    # dbt writes package-lock.yml for the package.
    package = {"packages.yml": "packages: [{local: tools}]", "tools/dbt_project.yml": "{name: t}"}
    models = {"models/a.sql": model, "models/logs/b.sql": model}
    bring_in({".gitignore": ignored, **models, **package})
    commit(clone, "Add a project")
    assert git(clone, "ls-files", "dbt/shop/models/logs")
    assert "postgres__create_schema.sql" in git(clone, "ls-files", "dbt/shop/macros")
    git(tmp_path, "clone", "--quiet", clone, tmp_path / "colleague")
    done = run_in(tmp_path / "colleague", settings, "dbt", "shop", "--quiet", "parse")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "profile",
    [
        "{target: dev, outputs: {dev: {type: postgres, host: \"{{ env_var('POSTGRES_HOST') }}\"}}}",
        "{target: prod, outputs: {prod: {type: snowflake}, dev: {type: postgres}}}",
    ],
    ids=["variable", "warehouse"],
)
def test_a_profile_that_cannot_be_used_here_is_replaced(bring_in, clone, settings, profile):
    bring_in({"profiles.yml": f"shop: {profile}", "models/a.sql": "select 1 as id"})
    done = run_in(clone, settings, "dbt", "shop", "--quiet", "parse")
    assert done.returncode == 0, done.stdout + done.stderr


def test_make_dbt_does_not_read_the_env_file_of_the_astro_cli(bring_in, clone, settings):
    bring_in({"models/a.sql": "select 1 as id"})
    write(clone, {".env": "DBT_TARGET=dev_ann"})
    done = run_in(clone, settings, "dbt", "shop", "--quiet", "parse")
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_alias_of_a_ref_is_no_error_of_postgres(bring_in):
    found = bring_in(
        {
            "models/a.sql": "select 1 as id",
            "models/b.sql": "select n.id from {{ ref('a') }} as n",
            "models/c.sql": "select m.id from {{ ref('b') }} as m",
        },
        builds=True,
    )
    assert (found.postgres_errors, found.only_parsed, found.parse_error) == ([], "", "")


def test_a_missing_source_is_reported_once_by_schema(bring_in, capsys):
    found = bring_in(
        {
            "models/sources.yml": SOURCE
            % ('"{{ target.schema }}"', "{name: orders}, {name: Days}"),
            "models/a.sql": READS_ORDERS,
            "models/b.sql": READS_ORDERS,
            "models/c.sql": "select * from {{ source('raw', 'Days') }}",
        },
        builds=True,
    )
    assert (found.missing, found.postgres_errors) == ({"shop": ["Days", "orders"]}, [])
    found.print()
    assert capsys.readouterr().out.count("orders") == 1


def test_a_source_in_a_comment_is_not_needed(bring_in):
    found = bring_in(
        {
            "models/sources.yml": SOURCE % ("raw", "{name: orders}, {name: gone}"),
            "models/a.sql": f"{READS_ORDERS}\n-- {{{{ source('raw', 'gone') }}}}",
            "models/b.sql": "/* {{ source('raw', 'gone') }} */ select 1 as id",
        }
    )
    assert found.missing == {"raw": ["orders"]}


def test_all_required_variables_are_reported_at_once_with_where_to_set_them(bring_in, capsys):
    found = bring_in(
        {
            "models/sources.yml": SOURCE % ("\"{{ env_var('RAW_SCHEMA') }}\"", "{name: orders}"),
            "models/a.sql": f"{READS_ORDERS} where {{{{ env_var('ONE_FILTER') }}}}",
            "models/b.sql": "select '{{ env_var('ONE_NAME') }}' {{ env_var('WITH_DEFAULT', '') }}",
            "models/c.sql": "select 1 as id {# {{ env_var('IN_A_COMMENT') }} #}",
        }
    )
    assert found.variables == ["ONE_FILTER", "ONE_NAME", "RAW_SCHEMA"]
    assert found.parse_error == ""
    found.print()
    printed = capsys.readouterr().out
    assert ".env for the Astro CLI" in printed
    assert "dags/shop.py, as env_vars of its ProjectConfig" in printed


@pytest.mark.parametrize("template", ["dag", "dag_with_load", "dag_with_seeds"])
def test_a_dag_file_of_a_project_with_a_long_name_has_no_long_line(tmp_path, template):
    from local.projects import write_template

    name = "a_dbt_project_with_a_name_of_forty_letters"
    write_template(tmp_path / "dag.py", f"{template}.py.txt", name)
    text = (tmp_path / "dag.py").read_text()
    compile(text, "dag.py", "exec")
    assert max(map(len, text.splitlines())) <= 100


def test_sources_that_are_seeds_get_a_dag_file_with_the_seeds_first(bring_in, clone, settings):
    found = bring_in(
        {
            "dbt_project.yml": "{name: shop, seeds: {shop: {+schema: raw}}}",
            "seeds/orders.csv": "id\n1\n",
            "models/sources.yml": SOURCE % ('"{{ target.schema }}_raw"', "{name: orders}"),
            "models/a.sql": READS_ORDERS,
        },
        builds=True,
    )
    assert (found.missing, found.postgres_errors) == ({}, [])
    assert "seeds >> dbt" in (clone / "dags" / "shop.py").read_text()
    again = run_in(clone, settings, "check-project", "--name=shop", "--parse-only")
    assert "Nothing is missing." in again.stdout
    assert "Sources that are seeds" not in again.stdout


def test_a_dag_file_without_the_engine_is_reported(bring_in, clone, settings):
    bring_in({"models/a.sql": "select 1 as id"})
    dag_file = clone / "dags" / "shop.py"
    text = dag_file.read_text().replace("from include.dbt_build import", "from cosmos import")
    dag_file.write_text(text.replace("    run_options=True,\n", "").replace('"shop"', "'shop'"))
    # A shell need not have the setting of the tests.
    cache = {"AIRFLOW__COSMOS__ENABLE_CACHE_DBT_LS": "True"}
    settings = replace(settings, environment={**settings.environment, **cache})
    done = run_in(clone, settings, "check-project", "--name=shop", "--parse-only")
    assert "shop.py has no DbtDag or DbtTaskGroup of include.dbt_build" in done.stdout


def test_vendored_packages_are_one_line_for_the_hooks(bring_in, clone):
    package = {
        f"../packages/tools/{name}": text
        for name, text in {
            "dbt_project.yml": "{name: tools}",
            **{f"macros/m{n}.sql": f"{{% macro m{n}() %}} 1 {{% endmacro %}}" for n in range(30)},
        }.items()
    }
    found = bring_in({"packages.yml": "packages: [{local: ../packages/tools}]"} | package)
    assert found.parse_error == ""
    added = git(clone, "diff", "HEAD", "--", ".pre-commit-config.yaml")
    lines = [line[1:].strip() for line in added.splitlines() if re.match(r"\+ ", line)]
    assert lines == ["dbt/(shop|packages)/.*|"]
    skipped = yaml.safe_load((clone / ".pre-commit-config.yaml").read_text())["exclude"]
    brought = git(clone, "ls-files", "dbt/packages", "dbt/shop").splitlines()
    assert len(brought) > 30
    assert [name for name in brought if not re.search(skipped, name)] == []
    assert not re.search(skipped, "dags/shop.py")


def test_a_project_of_many_models_is_only_parsed(bring_in, monkeypatch):
    monkeypatch.setattr("local.findings.MANY_MODELS", 1)
    models = {f"models/{name}.sql": "select 1 as id" for name in "ab"}
    found = bring_in(models, builds=True)
    assert found.only_parsed.startswith("all 2 models")


@pytest.mark.parametrize("is_loaded", [False, True])
def test_the_end_to_end_test_does_not_run_a_dag_that_needs_loaded_tables(
    clone, settings, tmp_path, is_loaded
):
    if is_loaded:
        # The end-to-end test has an empty Postgres of its own.
        with postgres.running(settings), postgres.connect(settings) as connection:
            connection.execute("create schema raw; create table raw.orders (id int)")
    files = {
        "dbt_project.yml": PROJECT,
        "models/sources.yml": SOURCE % ("raw", "{name: orders}"),
        "models/a.sql": READS_ORDERS,
    }
    source = write(tmp_path / "theirs", files)
    words = ("--name=acme", f"--source={source}", "--ci=none", "--parse-only")
    done = run_in(clone, settings, "adopt", *words)
    assert done.returncode == 0, done.stderr
    assert "runs_on_empty_warehouse = false" in (clone / "local.toml").read_text()
    assert not (clone / "tests" / "integration").exists()
    assert not (clone / ".github" / "workflows").exists()
    collected = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "tests"],
        cwd=clone,
        env={k: v for k, v in os.environ.items() if not k.startswith("PYTEST")},
        capture_output=True,
        text=True,
    ).stdout
    assert "tests/dags/" in collected
    assert "end_to_end" not in collected


def test_a_variable_that_the_dag_file_gives_is_not_required(bring_in, clone, settings, tmp_path):
    files = {
        "models/sources.yml": SOURCE % ("\"{{ env_var('RAW') }}\"", "{name: orders}"),
        "models/a.sql": READS_ORDERS,
    }
    assert bring_in(files).variables == ["RAW"]
    dag_file = clone / "dags" / "shop.py"
    argument = 'ProjectConfig(DBT_PROJECTS / "shop"'
    given = f'{argument}, env_vars={{"RAW": "y"}}'
    dag_file.write_text(dag_file.read_text().replace(argument, given))
    # DBT_PROJECTS_DIR can name a folder outside of the repository.
    project = (clone / "dbt" / "shop").rename(tmp_path / "shop")
    found = check(settings, project, dag_file, builds=False)
    assert (found.variables, found.missing, found.parse_error) == ([], {"y": ["orders"]}, "")


def test_the_package_around_a_project_is_brought_along(bring_in, clone, tmp_path):
    found = bring_in(
        {
            "dbt_project.yml": "{name: tools}",
            "macros/one.sql": "{% macro one() %} 1 {% endmacro %}",
            "integration_tests/dbt_project.yml": PROJECT,
            "integration_tests/packages.yml": "packages:\n  - local: ../\n",
            "integration_tests/models/a.sql": "select {{ tools.one() }} as id",
        },
        source="theirs/integration_tests",
    )
    assert found.parse_error == ""
    packages = (clone / "dbt" / "shop" / "packages.yml").read_text()
    assert packages == "packages:\n  - local: ../packages/shop/tools\n"
    assert not (clone / "dbt" / "packages" / "shop" / "tools" / "integration_tests").exists()


def test_a_package_that_is_not_there_is_an_error_with_what_to_do(bring_in):
    with pytest.raises(Failure, match=r"^packages.yml names \.\./gone, but there is no folder /"):
        bring_in({"packages.yml": "packages: [{local: ../gone}]"})


def test_a_local_package_of_a_local_package_is_brought_along(bring_in):
    found = bring_in(
        {
            "packages.yml": "packages: [{local: ../packages/one}]",
            "../packages/one/dbt_project.yml": "{name: one}",
            "../packages/one/packages.yml": "packages: [{local: ../packages/two}]",
            "../packages/two/dbt_project.yml": "{name: two}",
            "../packages/two/macros/two.sql": "{% macro two() %} 2 {% endmacro %}",
            "models/a.sql": "select {{ two.two() }} as id",
        }
    )
    assert found.parse_error == ""


def test_macros_in_a_folder_outside_of_the_project_are_brought_along(bring_in, clone):
    found = bring_in(
        {
            "dbt_project.yml": "name: shop\nmacro-paths: [../common/macros, ../shared/macros]\n",
            "../shared/macros/one.sql": "{% macro one() %} 1 {% endmacro %}",
            "../common/macros/one.sql": "{% macro two() %} 2 {% endmacro %}",
            "models/a.sql": "select {{ one() }} as id, {{ two() }} as other",
        }
    )
    assert found.parse_error == ""
    settings = (clone / "dbt" / "shop" / "dbt_project.yml").read_text()
    assert "[../packages/shop/macros, ../packages/shop/macros_2]" in settings
    # The hooks do not judge these files either.
    assert "    dbt/(shop|packages)/.*|\n" in (clone / ".pre-commit-config.yaml").read_text()


def test_shipped_packages_are_used_without_a_network(bring_in, clone):
    found = bring_in(
        {
            "packages.yml": "packages: [{package: nobody/tools, version: 1.0.0}]",
            "dbt_packages/tools/dbt_project.yml": "{name: tools}",
            "dbt_packages/tools/macros/one.sql": "{% macro one() %} 1 {% endmacro %}",
            "models/a.sql": "select {{ tools.one() }} as id",
        }
    )
    assert found.parse_error == ""
    assert "dbt_packages/tools/macros/one.sql" in git(clone, "ls-files", "dbt/shop")
    for name in (".dockerignore", ".gitignore"):
        assert (clone / name).read_text().endswith("\n!dbt/shop/dbt_packages\n")
