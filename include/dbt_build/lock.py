"""One dbt command of the engine at a time in the schema of a project, in whichever DAG or run.

Airflow alone cannot ensure that: runs of a backfill do not count into `max_active_runs`, and two
DAGs may build parts of one project. Node tasks that run dbt wait for each other too, because each
dbt command runs the hooks of the project and builds the functions that its models use. It is an
advisory lock in the warehouse, which Postgres releases with the connection, also when the process
that holds it is killed.

The lock belongs to a transaction and not to a session, because behind PgBouncer in transaction mode
a session is shared. The transaction writes nothing and reads nothing, so it does not hold back
vacuum.
"""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from threading import Event, Thread

from airflow.providers.postgres.hooks.postgres import PostgresHook
from cosmos import ProfileConfig

from include.dbt_build.timeouts import interrupt_dbt

POLL_SECONDS = 1
# The time between two statements, which keep an idle connection from being cut.
PING_SECONDS = 10
# connect_timeout is in seconds, tcp_user_timeout in milliseconds. Without tcp_user_timeout, a
# statement over a network that loses all packets hangs for a quarter of an hour.
LIBPQ = {"connect_timeout": 10, "tcp_user_timeout": 30_000}
KEY = "hashtext('dbt'), hashtext(%s)"
TAKE = f"select pg_try_advisory_xact_lock({KEY}), pg_backend_pid()"
# Postgres ends the transaction if it gets no statement for five minutes, such as when the machine
# is lost, but not because the transaction is long. transaction_timeout exists since Postgres 17.
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
    where locktype = 'advisory' and granted and datname = current_database()
        and (classid::int, objid::int) = (hashtext('dbt'), hashtext(%s)) and pid <> %s
"""

log = logging.getLogger(__name__)


@contextmanager
def build_lock(profile: ProfileConfig, ti) -> Iterator[None]:
    """Hold the lock of the profile's schema for a task instance, and log which run it waits for.

    There is a lock only for a profile of Postgres that is made from an Airflow connection.
    """
    mapping = profile.profile_mapping
    if mapping is None or mapping.dbt_profile_type != "postgres":
        log.info(
            "There is no lock for this profile. So that no builds overlap, set max_active_runs=1 "
            "and a pool of one slot: see docs/operations.md."
        )
        yield
        return
    lock = _Lock(mapping.conn_id, mapping.profile, ti)
    lock.wait()
    stop = Event()
    pings = Thread(target=lock.keep, args=(stop,), name="dbt-lock", daemon=True)
    pings.start()
    try:
        yield
    finally:
        stop.set()
        pings.join(timeout=PING_SECONDS)
        lock.release()


class _Lock:
    """The lock of a schema, held by a transaction."""

    def __init__(self, conn_id: str, profile: dict, ti):
        self.hook, self.schema = PostgresHook(conn_id), profile["schema"]
        connection = self.hook.connection
        # The arguments of the profile can name another server or database than the connection.
        database = profile.get("dbname") or profile.get("database")
        own = {"host": profile.get("host"), "port": profile.get("port"), "schema": database}
        for name, value in own.items():
            # Only dbt renders Jinja. The lock then uses the connection's own value instead.
            if value and "{{" not in str(value):
                setattr(connection, name, value)
        # `_row` needs tuples, and the connection's extra can ask for dictionaries.
        connection.extra = json.dumps({**LIBPQ, **connection.extra_dejson, "cursor": None})
        self.name = f"{ti.dag_id} {ti.run_id}"
        self.connection, self.pid = None, 0

    def wait(self) -> None:
        """Wait for the lock, and log which run holds it."""
        logged = None
        while not self.take():
            holders = self.holders()
            if holders and holders != logged:
                log.info("Waiting for %s, which builds in %s", holders, self.schema)
                logged = holders
            self.connection.rollback()
            time.sleep(POLL_SECONDS)

    def take(self) -> bool:
        """Begin a transaction, and return whether it has the lock."""
        self.connection = self.connection or self.hook.get_conn()
        self._row("select set_config('application_name', %s, true)", self.name)
        self._row(TIMEOUTS)
        is_held, pid = self._row(TAKE, self.schema)
        if is_held:
            self.pid = pid
        return is_held

    def holders(self) -> str | None:
        """Return the runs that hold the lock, without a lost connection of this task."""
        return self._row(HOLDERS, self.schema, self.pid)[0]

    def keep(self, stop: Event) -> None:
        """Keep the connection alive, and take the lock again if the connection is lost.

        If another task has taken the lock in the meantime, dbt is interrupted. Postgres can need
        minutes to notice that a connection is lost. Until then no other build gets the lock.
        """
        while not stop.wait(PING_SECONDS):
            try:
                # A connection is only kept while it holds the lock.
                if self.connection:
                    self._row("select 1")
                elif self.take():
                    log.info("The lock of the schema is held again.")
                else:
                    if self.holders() is not None and not stop.is_set():
                        interrupt_dbt()
                    self.release()
            except Exception as error:
                log.warning("The connection that holds the lock of the schema is lost: %s", error)
                self.release()
        # This thread may have taken the lock again after the build released it.
        self.release()

    def release(self) -> None:
        if self.connection:
            self.connection.close()
        self.connection = None

    def _row(self, query: str, *values) -> tuple:
        with closing(self.connection.cursor()) as cursor:
            cursor.execute(query, values)
            return cursor.fetchone()
