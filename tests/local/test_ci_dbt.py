"""What a pull request changes is built beside prod, on a real Postgres, and dropped again."""

import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.conftest import HAS_POSTGRES, ROOT, free_port, local
from tests.fixtures import write

if not HAS_POSTGRES:
    pytest.skip("needs the embedded Postgres, which the image lacks", allow_module_level=True)

from local.projects import POSTGRES_MACROS

pytestmark = pytest.mark.slow

FILES = {
    **{f"macros/{file.name}": file.read_text() for file in POSTGRES_MACROS.glob("*.sql")},
    "dbt_project.yml": """
        name: shop
        profile: shop
        flags: {send_anonymous_usage_stats: false}
        models:
          shop:
            # A value that differs between targets is not a change, here, in a model or in its YAML.
            +meta: {target: "{{ target.name }}"}
            marts: {+schema: marts}
    """,
    "packages.yml": f"packages: [{{local: {ROOT}/tests/projects/packages/small}}]",
    "seeds/customers.csv": "customer_id,name\n1,Ada\n2,Bo\n",
    "macros/euros.sql": "{% macro euros(cents) %}{{ cents }} / 100.0{% endmacro %}",
    "models/sources.yml": """
        sources:
          - name: raw
            tables: [{name: orders}]
    """,
    "models/stg_orders.sql": "select * from {{ source('raw', 'orders') }}",
    "models/priced.sql": """
        {{ config(materialized='ephemeral', meta={'target': target.name}) }}
        select order_id, customer_id, {{ euros('cents') }} as euros from {{ ref('stg_orders') }}
    """,
    "models/marts/orders.sql": """
        {{ config(materialized='incremental', indexes=[{'columns': ['order_id']}]) }}
        select *, '{{ target.name }}' as built_in from {{ ref('stg_orders') }}
        {% if is_incremental() %}
        where order_id > (select max(order_id) from {{ this }})
        {% endif %}
    """,
    "models/marts/totals.sql": """
        select customers.customer_id, sum(priced.euros)::numeric as euros
        from {{ ref('priced') }} as priced
        inner join {{ ref('customers') }} as customers on true
        group by 1
    """,
    "models/marts/ranked.sql": """
        select customer_id, count(*) as orders from {{ ref('orders') }} group by 1
    """,
    "models/marts/marts.yml": """
        models:
          - name: totals
            config:
              materialized: table
              contract: {enforced: true}
              meta: {target: "{{ target.name }}"}
            columns:
              - {name: customer_id, data_type: integer}
              - {name: euros, data_type: numeric}
    """,
    "models/exposures.yml": """
        exposures:
          - {name: board, type: dashboard, owner: {name: Ada}, depends_on: [ref('ranked')]}
    """,
    "models/old.sql": "select 1 as id",
    "models/names.sql": "select 1 as id, 'Ada' as name",
    "snapshots/names_history.yml": """
        snapshots:
          - name: names_history
            relation: ref('names')
            config: {unique_key: id, strategy: check, check_cols: [name]}
    """,
}
COMMENT = """### What this pull request changes in dbt

Compared with prod's manifest of ... UTC. Tests that passed: 0.

| node | result |
| --- | --- |
| `ci_1_shop.stg_orders` | built |
| `ci_1_shop_marts.orders` | cloned from prod, then built incrementally |
| `ci_1_shop_marts.ranked` | built |
| `ci_1_shop_marts.totals` | built |
| `shop.customers` | read from prod |
"""
STAGING, MART = FILES["models/stg_orders.sql"], FILES["models/marts/marts.yml"]


@pytest.fixture(scope="module")
def prod(warehouse, postgres, tmp_path_factory) -> Path:
    """The tables of a run of prod, and the folder with its artifacts, which is returned."""
    warehouse.execute("create schema raw")
    warehouse.execute("create table raw.orders (order_id int, customer_id int, cents int)")
    warehouse.execute("insert into raw.orders values (1, 1, 250), (2, 2, 400)")
    # A deployment has the project in another folder, and another profile.
    folder = write(tmp_path_factory.mktemp("prod") / "shop", FILES)
    profile = (ROOT / "local" / "profiles.yml").read_text().replace("local:", "shop:", 1)
    (folder / "profiles.yml").write_text(profile)
    for words in (["deps"], ["build", "--no-partial-parse"]):
        done = subprocess.run(
            [Path(sys.executable).with_name("dbt"), *words],
            cwd=folder,
            env={**os.environ, **postgres, "DBT_TARGET": "prod", "WAREHOUSE_PROD_SCHEMA": "shop"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout
    warehouse.execute("insert into raw.orders values (3, 1, 100)")
    return folder / "target"


@pytest.fixture
def branch(prod, warehouse, tmp_path) -> Path:
    yield write(tmp_path / "shop", FILES)
    for (name,) in warehouse.execute("select nspname from pg_namespace where nspname ~ '^ci_'"):
        warehouse.execute(f"drop schema {name} cascade")


@pytest.fixture
def ci_dbt(branch, prod, postgres):
    """A function that runs the command on the branch, as make does."""

    def run(
        command: str = "ci-dbt",
        pr: str = "1",
        state: Path | str = prod,
        full_refresh: bool = False,
        **env: str,
    ) -> subprocess.CompletedProcess:
        options = ["--pr", pr]
        if command == "ci-dbt":
            options += ["--project", "shop", "--state", str(state)]
            options += ["--full-refresh"] if full_refresh else []
        env = {**postgres, "DBT_PROJECTS_DIR": str(branch.parent), **env}
        return local(command, *options, env=env)

    return run


def relations(warehouse, schemas: str) -> dict:
    """Return each table and view of the schemas with a number, which changes if it is made anew."""
    found = warehouse.execute(
        """
        select nspname || '.' || relname, pg_class.oid
        from pg_class join pg_namespace on pg_namespace.oid = relnamespace
        where nspname ~ %s and relkind in ('r', 'v')
        """,
        [schemas],
    )
    return dict(found.fetchall())


def orders(warehouse, schema: str) -> list:
    found = warehouse.execute(f"select order_id, built_in from {schema}.orders order by 1")  # noqa: S608
    return found.fetchall()


def rows_of(done: subprocess.CompletedProcess) -> dict[str, list[str]]:
    """Return the relations of each result in the table that is printed last."""
    found = defaultdict(list)
    for name, result in re.findall(r"^\| `([^.`]+\.[^`]+)` \| (\w[^|]*) \|$", done.stdout, re.M):
        found[result].append(name)
    return dict(found)


def comment(postgres) -> str:
    return Path(postgres["LOCAL_HOME"], "ci-dbt", "shop", "comment.md").read_text()


def test_a_changed_model_and_what_reads_it_is_built_beside_prod(
    ci_dbt, branch, warehouse, postgres
):
    before, rows = relations(warehouse, "^shop"), orders(warehouse, "shop_marts")
    write(branch, {"models/stg_orders.sql": f"{STAGING} -- changed"})
    for name in ("ci_10_shop", "ci_11_shop", "ci_1xshop", "ci_1"):
        warehouse.execute(f"create schema {name}")
    warehouse.execute("create schema ci_1_shop_marts")
    warehouse.execute("create table ci_1_shop_marts.of_an_earlier_push (id int)")

    done = ci_dbt()
    assert done.returncode == 0, done.stdout + done.stderr
    assert rows_of(done) == {
        "built": ["ci_1_shop.stg_orders", "ci_1_shop_marts.ranked", "ci_1_shop_marts.totals"],
        "cloned from prod, then built incrementally": ["ci_1_shop_marts.orders"],
        "read from prod": ["shop.customers"],
    }
    assert {*relations(warehouse, "^ci_")} == {
        "ci_1_shop.stg_orders",
        "ci_1_shop_marts.orders",
        "ci_1_shop_marts.ranked",
        "ci_1_shop_marts.totals",
    }
    assert re.sub("manifest of .* UTC", "manifest of ... UTC", comment(postgres)) == COMMENT
    # Prod's rows were copied, with the index, and only the new one was built.
    assert rows == [(1, "prod"), (2, "prod")]
    assert orders(warehouse, "ci_1_shop_marts") == [*rows, (3, "ci")]
    indexes = "select count(*) from pg_indexes where schemaname = %s and tablename = 'orders'"
    assert warehouse.execute(indexes, ["ci_1_shop_marts"]).fetchone() == (1,)
    assert relations(warehouse, "^shop") == before
    assert orders(warehouse, "shop_marts") == rows

    done = ci_dbt("ci-dbt-drop")
    assert done.stdout == "Dropped: ci_1_shop, ci_1_shop_marts\n"
    left = warehouse.execute("select nspname from pg_namespace where nspname ~ '^ci_' order by 1")
    assert left.fetchall() == [("ci_1",), ("ci_10_shop",), ("ci_11_shop",), ("ci_1xshop",)]
    assert relations(warehouse, "^shop") == before
    done = ci_dbt("ci-dbt-drop")
    assert done.stdout == "Dropped: nothing, there is no schema ci_1_*\n"


def test_what_is_not_changed_is_not_built(ci_dbt, branch, prod, warehouse):
    # A model without children is deleted, because dbt could not parse its children.
    (branch / "models" / "old.sql").unlink()
    warehouse.execute("create schema ci_1_shop")
    warehouse.execute("create table ci_1_shop.of_an_earlier_push as select 1")
    # The state is given as a URL, which can be that of a bucket.
    done = ci_dbt(state=f"file://{prod}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Nothing to build: no node differs from prod's." in done.stdout
    assert rows_of(done) == {"deleted; prod has it until you drop it": ["shop.old"]}
    assert relations(warehouse, "^ci_") == {}


@pytest.mark.parametrize(
    ("changes", "built", "read"),
    [
        (
            {"seeds/customers.csv": "customer_id,name\n1,Ada\n3,Cy\n"},
            ["ci_1_shop.customers", "ci_1_shop_marts.totals"],
            ["shop.stg_orders"],
        ),
        (
            {"macros/euros.sql": "{% macro euros(cents) %}{{ cents }} / 100.00{% endmacro %}"},
            ["ci_1_shop_marts.totals"],
            ["shop.customers", "shop.stg_orders"],
        ),
        (
            {"models/marts/marts.yml": MART.replace("data_type: numeric", "data_type: decimal")},
            ["ci_1_shop_marts.totals"],
            ["shop.customers", "shop.stg_orders"],
        ),
        (
            {
                "models/marts/orders.sql": FILES["models/marts/orders.sql"].replace(
                    "materialized=", "unique_key='order_id', materialized="
                )
            },
            ["ci_1_shop_marts.orders", "ci_1_shop_marts.ranked"],
            ["shop.stg_orders"],
        ),
    ],
    ids=["seed", "macro", "contract", "config of an incremental model"],
)
def test_what_is_changed_is_built_in_full(ci_dbt, branch, warehouse, changes, built, read):
    before = relations(warehouse, "^shop")
    write(branch, changes)
    done = ci_dbt()
    assert done.returncode == 0, done.stdout + done.stderr
    assert rows_of(done) == {"built": built, "read from prod": read}
    assert sorted(relations(warehouse, "^ci_")) == built
    assert relations(warehouse, "^shop") == before


@pytest.mark.parametrize("full_refresh", [False, True])
def test_incremental_models_and_snapshots_start_from_prods_rows_or_anew(
    ci_dbt, branch, warehouse, full_refresh
):
    before = relations(warehouse, "^shop")
    names = FILES["models/names.sql"].replace("Ada", "Ida")
    write(branch, {"models/stg_orders.sql": f"{STAGING} -- changed", "models/names.sql": names})
    done = ci_dbt(full_refresh=full_refresh)
    assert done.returncode == 0, done.stdout + done.stderr
    found = warehouse.execute("select name from ci_1_shop.names_history order by dbt_valid_from")
    assert found.fetchall() == ([("Ida",)] if full_refresh else [("Ada",), ("Ida",)])
    built_in = {target for _, target in orders(warehouse, "ci_1_shop_marts")}
    assert built_in == ({"ci"} if full_refresh else {"prod", "ci"})
    assert relations(warehouse, "^shop") == before


@pytest.mark.parametrize("lacks", ["macro", "table"])
def test_an_incremental_model_that_cannot_be_cloned_is_built_in_full(
    ci_dbt, branch, warehouse, lacks
):
    names = FILES["models/names.sql"].replace("Ada", "Ida")
    write(branch, {"models/stg_orders.sql": f"{STAGING} -- changed", "models/names.sql": names})
    if lacks == "macro":
        (branch / "macros" / "postgres__can_clone_table.sql").unlink()
    else:
        warehouse.execute("alter table shop_marts.orders rename to not_yet")
    try:
        done = ci_dbt()
    finally:
        if lacks == "table":
            warehouse.execute("alter table shop_marts.not_yet rename to orders")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ci_1_shop_marts.orders" in rows_of(done)["built"]
    assert orders(warehouse, "ci_1_shop_marts") == [(1, "ci"), (2, "ci"), (3, "ci")]


def test_a_changed_test_reads_the_table_of_prod_and_its_failure_fails_the_command(
    ci_dbt, branch, warehouse, postgres
):
    tested = MART.replace(
        "{name: euros,",
        "{name: euros, data_tests: [{accepted_values: {arguments: {values: [1]}}}],",
    )
    assert tested != MART
    write(branch, {"models/marts/marts.yml": tested})
    done = ci_dbt()
    assert done.returncode == 1
    assert done.stderr == "error: dbt build failed: see above.\n"
    assert "Got 1 result, configured to fail if != 0" in done.stdout
    assert rows_of(done) == {"read from prod": ["shop_marts.totals"]}
    assert relations(warehouse, "^ci_") == {}
    text = comment(postgres)
    assert re.search(r"^\| `accepted_values_totals_\S+` \| \*\*fail\*\* Got 1 result", text, re.M)
    assert "| `shop_marts.totals` | read from prod |" in text


def test_a_model_that_reads_a_deleted_one_is_an_error(ci_dbt, branch):
    (branch / "models" / "stg_orders.sql").unlink()
    done = ci_dbt()
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: dbt ls failed in ")
    assert "depends on a node named 'stg_orders' which was not found" in line


def test_a_changed_function_is_built_beside_prod_or_refused(ci_dbt, branch, warehouse):
    properties = "functions: [{name: half, returns: {data_type: int}, arguments: []}]"
    write(branch, {"functions/half.sql": "select 2", "functions/half.yml": properties})
    done = ci_dbt()
    assert done.returncode == 0, done.stdout + done.stderr
    assert rows_of(done) == {"built": ["ci_1_shop.half"]}
    schema = "{{ 'shop' if node.resource_type == 'function' else target.schema }}"
    macro = f"{{% macro generate_schema_name(name, node) %}}{schema}{{% endmacro %}}"
    write(branch, {"macros/generate_schema_name.sql": macro})
    assert "half would be built into the schema shop" in ci_dbt().stderr


def test_a_schema_without_the_prefix_of_the_pull_request_is_refused(ci_dbt, branch, warehouse):
    before = relations(warehouse, "")
    macro = "{% macro generate_schema_name(name, node) %}{{ name or 'shop' }}{% endmacro %}"
    write(branch, {"macros/generate_schema_name.sql": macro, "models/old.sql": "select 2 as id"})
    done = ci_dbt()
    assert done.returncode == 1
    assert done.stderr.startswith(
        "error: old would be built into the schema shop. With the target ci"
    )
    assert relations(warehouse, "") == before


def test_an_invalid_option_is_a_one_line_error(ci_dbt, prod, tmp_path):
    (tmp_path / "empty").mkdir()
    other = write(tmp_path / "broken", {"manifest.json": "{}"})
    for options, line in (
        ({"pr": ""}, "PR= is not a number"),
        ({"pr": "1_; drop"}, "PR=1_; drop is not a number"),
        ({"state": ""}, "STATE= is missing"),
        ({"state": str(tmp_path / "empty")}, f"STATE={tmp_path}/empty: its manifest.json"),
        ({"state": str(other)}, "dbt ls failed in "),
        (
            {"state": f"file://{tmp_path}/empty"},
            f"STATE=file://{tmp_path}/empty: its manifest.json",
        ),
    ):
        done = ci_dbt(**options)
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert done.stderr.startswith(f"error: {line}")


def test_a_warehouse_that_cannot_be_reached_is_reported(ci_dbt):
    done = ci_dbt("ci-dbt-drop", WAREHOUSE_PORT=free_port())
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: The warehouse cannot be reached: connection failed")
