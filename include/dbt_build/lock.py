"""One `dbt build` at a time in the schema of a project, whoever starts it.

Airflow alone cannot promise that: runs of a backfill do not count into `max_active_runs`, and two
DAGs may build parts of one project. The build task holds an exclusive lock; node tasks that run
dbt again share one, each for its own nodes. It is an advisory lock in the warehouse, which
Postgres releases with the connection, also when the process that holds it is killed.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from airflow.providers.postgres.hooks.postgres import PostgresHook
from cosmos import ProfileConfig

POLL_SECONDS = 1
KEY = "hashtext('dbt'), hashtext(%s)"
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
    schema = [mapping.profile["schema"]]
    kind = "" if exclusive else "_shared"
    with closing(PostgresHook(mapping.conn_id).get_conn()) as connection:
        # A transaction would stay open as long as dbt builds.
        connection.autocommit = True
        with closing(connection.cursor()) as cursor:

            def value_of(query: str, values: list):
                cursor.execute(query, values)
                return cursor.fetchone()[0]

            name = f"{ti.dag_id} {ti.run_id}"
            value_of("select set_config('application_name', %s, false)", [name])
            logged = None
            while not value_of(f"select pg_try_advisory_lock{kind}({KEY})", schema):
                holders = value_of(HOLDERS, schema)
                if holders and holders != logged:
                    log.info("Waiting for %s, which builds in %s", holders, *schema)
                    logged = holders
                time.sleep(POLL_SECONDS)
            yield
