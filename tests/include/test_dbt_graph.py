"""Each dbt test belongs to one model: the one furthest downstream that it reads."""

import cosmos.converter
from cosmos.dbt.graph import DbtGraph

from tests.conftest import dbt
from tests.include.conftest import render


def kinds_of_tests(dag) -> dict[str, list[str]]:
    graph = dag.dbt_graph
    return {
        graph.nodes[model].name: sorted(graph.nodes[test].name.split("_")[0] for test in tests)
        for model, tests in graph.tests_per_model.items()
    }


def test_a_test_of_two_models_has_one_owner(second, monkeypatch):
    parsed = dbt("parse", project=str(second))
    assert parsed.returncode == 0, parsed.stdout
    assert kinds_of_tests(render("second")) == {
        "base": ["unique"],
        "all_of_it": ["relationships", "relationships"],
    }
    # If this fails, Cosmos has changed, and include/dbt_graph.py may no longer be needed.
    monkeypatch.setattr(cosmos.converter, "DbtGraph", DbtGraph)
    assert kinds_of_tests(render("second")) == {
        "base": ["relationships", "unique"],
        "all_of_it": ["relationships", "relationships"],
        "apart": ["relationships"],
    }
