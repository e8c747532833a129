"""Who is responsible for a node."""

from tests.include.dbt_build.conftest import render

OWNED = {
    "models/owners.yml": """
        groups:
          - {name: finance, owner: {name: Finance, email: finance@example.com}}
        models:
          - {name: by_meta, config: {meta: {owner: me}, group: finance}}
          - name: by_group
            config: {group: finance}
            columns: [{name: id, data_tests: [unique]}]
          - {name: by_exposures}
        exposures:
          - {name: one, type: dashboard, owner: {name: Sales}, depends_on: [ref('by_exposures')]}
          - name: two
            type: dashboard
            owner: {email: ads@example.com}
            depends_on: [ref('by_exposures'), ref('by_meta')]
    """,
    "tests/one_of_a_group.sql": "select * from {{ ref('by_group') }} where id > 1",
}


def test_the_owner_of_a_node_comes_from_its_meta_its_group_or_its_exposures(small):
    names = ("by_meta", "by_group", "by_exposures")
    dag = render(small(OWNED, **dict.fromkeys(names, "select 1 as id")))
    owners = dag.get_task("dbt_build").group.slim["owners"]
    assert {unique_id.split(".")[2]: owner for unique_id, owner in owners.items()} == {
        "by_meta": "me",
        "by_group": "Finance",
        "unique_by_group_id": "Finance",
        "one_of_a_group": "Finance",
        "by_exposures": "Sales, ads@example.com",
    }
