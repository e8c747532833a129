"""No build fails or waits because its lineage cannot be made or emitted."""

from datetime import UTC, datetime
from types import SimpleNamespace

from include.dbt_build import command, lineage
from tests.include.dbt_build.conftest import render, write

# An event without a run cannot be emitted.
EVENT = SimpleNamespace(run=None)


def task_instance() -> SimpleNamespace:
    time = datetime(2026, 1, 1, tzinfo=UTC)
    run = SimpleNamespace(logical_date=time, run_after=time, clear_number=0)
    return SimpleNamespace(
        dag_id="shop",
        task_id="dbt_build",
        try_number=1,
        map_index=-1,
        get_template_context=lambda: {"dag_run": run, "logical_date": time},
    )


def test_an_event_that_cannot_be_emitted_is_a_warning(caplog):
    lineage.emit_lineage(task_instance(), [EVENT])
    assert "could not be emitted: AttributeError" in caplog.text


def test_a_server_that_does_not_answer_does_not_hold_up_the_build(caplog, monkeypatch):
    monkeypatch.setattr(lineage, "MAX_SECONDS", -1)
    lineage.emit_lineage(task_instance(), [EVENT] * 3)
    assert "0 of 3 took more than -1 s" in caplog.text


def test_settings_that_openlineage_cannot_render_are_a_warning(
    unchanged, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(command, "is_lineage_active", lambda: True)
    build = render(unchanged).get_task("dbt_build")
    build.base_cmd = ["build"]
    # OpenLineage does not know the filters of dbt.
    write(tmp_path, {"dbt_project.yml": "name: \"{{ 'shop' | as_native }}\""})
    assert not build.calculate_openlineage_events_completes({}, tmp_path)
    assert "No filter named 'as_native'" in caplog.text
