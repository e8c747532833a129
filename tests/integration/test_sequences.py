"""Random sequences of failures, kills, clears and mends: a run is green if and only if a fresh
`dbt build` on the same warehouse is, and what was fine is not built again."""

import random
from itertools import chain

import psutil
import pytest
from airflow.dag_processing.dagbag import DagBag
from dbt.cli.main import dbtRunner
from include.dbt_build.events import GOOD

from tests.conftest import HAS_POSTGRES, HOME, ROOT, wait_until

if HAS_POSTGRES:
    from local.settings import dbt_env
    from tests.integration.states import States

pytestmark = [pytest.mark.engine, pytest.mark.slow]

BREAKS = [*"abcdefg", "by_day", "2026-01-02", "test_a", "test_b", "warn_d", "source_test"]
BREAKS += ["reads_nothing", "unit_e", "start_hook", "end_hook"]
IN_GROUP = "dbt."


@pytest.fixture(scope="module")
def states(api, warehouse):
    return States(api, warehouse)


@pytest.fixture(scope="module")
def nodes(projects) -> dict:
    """The operators of the DAG, by their task's id."""
    bag = DagBag(ROOT / "tests" / "integration" / "dags", bundle_path=ROOT)
    return {task.task_id: task for task in bag.dags["states_between"].tasks}


def fresh_build(prepared: str) -> tuple[bool, dict[str, str]]:
    """Whether `dbt build` by itself, in a schema of its own, is green; and each node's status."""
    env = {
        **dbt_env(),
        "USER": "fresh",
        "DBT_EVENT_TIME_START": "2026-01-01",
        "DBT_EVENT_TIME_END": "2026-01-04",
    }
    where = ["--project-dir", prepared, "--profiles-dir", prepared, "--target-path", HOME / "fresh"]
    # In this process, which has imported dbt: a new one would take twice as long.
    with pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        done = dbtRunner().invoke(["--quiet", "build", "--target", "dev", *map(str, where)])
    assert done.result, done.exception
    return done.success, {r.node.unique_id: str(r.status) for r in done.result.results}


def compare(states, nodes, state: str) -> None:
    green, statuses = fresh_build(nodes["dbt_build"].project_dir)
    assert state == ("success" if green else "failed")
    found = states.states()
    for name, task in nodes.items():
        if not (of_task := getattr(task, "nodes", None)):
            continue
        good = all(statuses.get(node) in GOOD for node in of_task)
        if found[name] == "success":
            assert good, f"{name} is green, dbt says {[statuses.get(n) for n in of_task]}"
        elif good:
            # Airflow waits at a node where dbt waits for a test of several: never the other way.
            assert found[name] == "upstream_failed", name


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.timeout(400)
def test_a_run_is_green_if_and_only_if_a_fresh_build_is(states, nodes, seed):
    chance = random.Random(seed)  # noqa: S311
    broken = set(chance.sample(BREAKS, chance.randint(0, 3)))
    kill = chance.random() < 0.4
    states.broken(*broken)
    states.trigger()
    if kill:
        wait_until(lambda: states.tasks()["dbt_build"]["pid"])
        after = chance.random() * 4
        process = psutil.Process(states.tasks()["dbt_build"]["pid"])
        try:
            process.wait(after)
        except psutil.TimeoutExpired:
            process.kill()
    compare(states, nodes, states.end())

    for step in range(2):
        before = states.states()
        red = {n for n, state in before.items() if state in ("failed", "upstream_failed")}
        broken = set() if step else set(chance.sample(sorted(broken), len(broken) // 2))
        states.broken(*broken)
        cleared = red
        match chance.choice(["red", "all", "group", "green too"]):
            case "all":
                cleared = set(before)
            case "group":
                cleared = {n for n in before if n.startswith(IN_GROUP) or n == "dbt_build"}
            case "green too":
                cleared = red | {chance.choice([n for n in before if n.startswith(IN_GROUP)])}
        if not cleared:
            continue
        states.clear(*cleared)
        state = states.end()
        allowed = cleared | set(
            chain.from_iterable(nodes[n].get_flat_relative_ids(upstream=False) for n in cleared)
        )
        built = states.built()
        compare(states, nodes, state)
        left = [getattr(nodes[n], "nodes", {}) for n in nodes.keys() - allowed]
        fine = {node.split(".")[2] for node in chain.from_iterable(left)}
        assert not fine & built.keys()
    assert states.not_green() == {}
