"""Random sequences of failures, kills, repairs and clears.

A run succeeds if and only if a fresh `dbt build` on the same warehouse does, and nodes that were
not cleared are not built again.
"""

import random
from itertools import chain

import psutil
import pytest
from airflow.dag_processing.dagbag import DagBag
from dbt.cli.main import dbtRunner

from include.dbt_build.results import SUCCEEDED
from tests.conftest import HAS_POSTGRES, HOME, ROOT, SETTINGS
from tests.fixtures import wait_until

if HAS_POSTGRES:
    from tests.integration.states import States

pytestmark = pytest.mark.slow

BREAKS = [*"abcdefg", "by_day", "2026-01-02", "test_a", "test_b", "warn_d", "source_test"]
BREAKS += ["reads_nothing", "unit_e", "start_hook", "end_hook"]
BUILD, IN_GROUP = "dbt.dbt_build", "dbt."


@pytest.fixture(scope="module")
def states(api, warehouse):
    return States(api, warehouse)


@pytest.fixture(scope="module")
def tasks(projects) -> dict:
    """Return the operators of the DAG, by task ID."""
    bag = DagBag(ROOT / "tests" / "integration" / "dags", bundle_path=ROOT)
    return {task.task_id: task for task in bag.dags["states_between"].tasks}


def fresh_build(workdir: str) -> tuple[bool, dict[str, str]]:
    """Run `dbt build` in another schema; return whether it succeeds, and each node's status."""
    env = {
        **SETTINGS.dbt_env(),
        "USER": "fresh",
        "DBT_EVENT_TIME_START": "2026-01-01",
        "DBT_EVENT_TIME_END": "2026-01-04",
    }
    paths = {
        "--project-dir": workdir,
        "--profiles-dir": workdir,
        "--target-path": HOME / "fresh",
        "--log-path": HOME / "fresh",
    }
    options = map(str, chain.from_iterable(paths.items()))
    # This process has imported dbt. A new process would take twice as long.
    with pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        done = dbtRunner().invoke(["--quiet", "build", "--target", "dev", *options])
    assert done.result, done.exception
    return done.success, {r.node.unique_id: str(r.status) for r in done.result.results}


def compare(states, tasks, state: str) -> None:
    """Check the states of a run against a fresh build."""
    succeeds, statuses = fresh_build(tasks[BUILD].project_dir)
    found = states.states()
    assert state == ("success" if succeeds else "failed"), found
    for name, task in tasks.items():
        if not (nodes := getattr(task, "nodes", None)):
            continue
        has_succeeded = all(statuses.get(node) in SUCCEEDED for node in nodes)
        if found[name] == "success":
            reported = [statuses.get(node) for node in nodes]
            assert has_succeeded, f"{name} is successful, dbt reports {reported}"
        elif has_succeeded:
            # A task waits for all tests of the nodes upstream, and a leaf for the hooks.
            assert found[name] == "upstream_failed", name


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.timeout(400)
def test_a_run_succeeds_if_and_only_if_a_fresh_build_does(states, tasks, seed):
    chance = random.Random(seed)  # noqa: S311
    broken = set(chance.sample(BREAKS, chance.randint(0, 3)))
    kill = chance.random() < 0.4
    states.broken(*broken)
    states.trigger()
    if kill:
        wait_until(lambda: states.tasks()[BUILD]["pid"])
        after = chance.random() * 4
        process = psutil.Process(states.tasks()[BUILD]["pid"])
        try:
            process.wait(after)
        except psutil.TimeoutExpired:
            process.kill()
    compare(states, tasks, states.end())

    for step in range(2):
        before = states.states()
        failed = {n for n, state in before.items() if state in ("failed", "upstream_failed")}
        broken = set() if step else set(chance.sample(sorted(broken), len(broken) // 2))
        states.broken(*broken)
        cleared = failed
        match chance.choice(["failed", "all", "group", "a successful one too"]):
            case "all":
                cleared = set(before)
            case "group":
                cleared = {n for n in before if n.startswith(IN_GROUP)}
            case "a successful one too":
                cleared = failed | {chance.choice([n for n in before if n.startswith(IN_GROUP)])}
        if not cleared:
            continue
        states.clear(*cleared)
        state = states.end()
        built = states.built()
        compare(states, tasks, state)
        allowed = cleared | set(
            chain.from_iterable(tasks[n].get_flat_relative_ids(upstream=False) for n in cleared)
        )
        not_cleared = [getattr(tasks[n], "nodes", ()) for n in tasks.keys() - allowed]
        names = {node.split(".")[2] for node in chain.from_iterable(not_cleared)}
        assert not names & built.keys()
    assert states.not_successful() == {}
