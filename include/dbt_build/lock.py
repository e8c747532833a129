"""One `dbt build` at a time in the schema of a project, whoever starts it.

Airflow alone cannot promise that: runs of a backfill do not count into `max_active_runs`, and two
DAGs may build parts of one project. The build task holds an exclusive lock; node tasks that run
dbt again share one, each for its own nodes. It is an advisory lock in the warehouse, which
Postgres releases with the connection, also when the process that holds it is killed.

The lock belongs to a transaction and not to a session, because behind PgBouncer in transaction mode
a session is shared. The transaction writes nothing and reads nothing, so it does not hold back
vacuum.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from threading import Event, Thread

from airflow.providers.postgres.hooks.postgres import PostgresHook
from cosmos import ProfileConfig

POLL_SECONDS = 1
# The time between two statements, which keep an idle connection from being cut.
PING_SECONDS = 10
KEY = "hashtext('dbt'), hashtext(%s)"
# Postgres ends the transaction when a machine is lost, and not before. Version 17 has the second
# setting.
TIMEOUTS = """
    select set_config(name, value, true)
    from pg_settings
    inner join (
        values ('idle_in_transaction_session_timeout', '5min'), ('transaction_timeout', '0')
    ) as wanted (name, value) using (name)
"""
HOLDERS = """
    select string_agg(distinct application_name, ', ')
    from pg_locks inner join pg_stat_activity using (pid)
    where locktype = 'advisory' and granted and pg_locks.database = pg_stat_activity.datid
        and (classid::int, objid::int) = (hashtext('dbt'), hashtext(%s))
"""

log = logging.getLogger(__name__)


@contextmanager
def build_lock(profile: ProfileConfig, ti, *, exclusive: bool) -> Iterator[None]:
    """Hold the lock of the profile's schema for a task instance, and log for whom it waits.

    There is a lock for a profile of Postgres that is made from an Airflow connection. For any
    other profile, `max_active_runs=1` and a pool of one slot keep two builds apart.
    """
    mapping = profile.profile_mapping
    if mapping is None or mapping.dbt_profile_type != "postgres":
        log.info("There is no lock for this profile: max_active_runs and a pool take its place.")
        yield
        return
    schema, stop = mapping.profile["schema"], Event()
    with closing(PostgresHook(mapping.conn_id).get_conn()) as connection:
        _take_lock(connection, schema, f"{ti.dag_id} {ti.run_id}", exclusive)
        pings = Thread(target=_keep_alive, args=(connection, stop), name="dbt-lock", daemon=True)
        pings.start()
        try:
            yield
        finally:
            stop.set()
            # A statement can hang if the network is lost.
            pings.join(timeout=PING_SECONDS)


def _take_lock(connection, schema: str, holder: str, exclusive: bool) -> None:
    """Begin a transaction that holds the lock."""
    kind = "" if exclusive else "_shared"
    logged = None
    while True:
        with closing(connection.cursor()) as cursor:
            cursor.execute("select set_config('application_name', %s, true)", [holder])
            cursor.execute(TIMEOUTS)
            cursor.execute(f"select pg_try_advisory_xact_lock{kind}({KEY})", [schema])
            if cursor.fetchone()[0]:
                return
            cursor.execute(HOLDERS, [schema])
            holders = cursor.fetchone()[0]
        connection.rollback()
        if holders and holders != logged:
            log.info("Waiting for %s, which builds in %s", holders, schema)
            logged = holders
        time.sleep(POLL_SECONDS)


def _keep_alive(connection, stop: Event) -> None:
    while not stop.wait(PING_SECONDS):
        try:
            with closing(connection.cursor()) as cursor:
                cursor.execute("select 1")
        except Exception as error:
            log.warning("The connection that holds the lock of the schema is lost: %s", error)
            return
