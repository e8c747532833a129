"""One dbt at a time in the schemas of a project, whoever starts it.

Airflow alone can't say so: runs of a backfill do not count into `max_active_runs`, and two DAGs may
build parts of one project. A `dbt build` holds the lock alone. Tasks that build nodes again, each
its own, share it. It is an advisory lock in the warehouse: Postgres ends it with the connection,
so also when its holder was killed.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from airflow.providers.postgres.hooks.postgres import PostgresHook
from cosmos import ProfileConfig

# Between two tries to get it.
SECONDS = 1
KEY = "hashtext('dbt'), hashtext(%s)"
HOLDERS = """
    select string_agg(distinct application_name, ', ')
    from pg_locks inner join pg_stat_activity using (pid)
    where locktype = 'advisory' and granted and pg_locks.database = pg_stat_activity.datid
        and (classid::int, objid::int) = (hashtext('dbt'), hashtext(%s))
"""

log = logging.getLogger(__name__)


@contextmanager
def build_lock(profile: ProfileConfig, ti, *, alone: bool) -> Iterator[None]:
    """Hold the lock of the profile's schema for a task instance; say for whom it waits."""
    mapping = profile.profile_mapping
    schema = [mapping.profile_args["schema"]]
    kind = "" if alone else "_shared"
    with closing(PostgresHook(mapping.conn_id).get_conn()) as connection:
        # Not in a transaction, which would stay open as long as dbt builds.
        connection.autocommit = True
        with closing(connection.cursor()) as cursor:

            def ask(query: str, values: list):
                cursor.execute(query, values)
                return cursor.fetchone()[0]

            ask("select set_config('application_name', %s, false)", [f"{ti.dag_id} {ti.run_id}"])
            told = None
            while not ask(f"select pg_try_advisory_lock{kind}({KEY})", schema):
                holders = ask(HOLDERS, schema)
                if holders and holders != told:
                    log.info("Waiting for %s, which builds in %s", holders, *schema)
                    told = holders
                time.sleep(SECONDS)
            yield
