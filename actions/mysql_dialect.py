"""How MariaDB and MySQL differ, in one table: views, statements, names of columns and of privileges."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from oncall_agent.contract import PermanentError

_BLOCKED_BY_ROW_MARIADB = """
SELECT r.trx_mysql_thread_id AS waiting, b.trx_mysql_thread_id AS blocking,
  REPLACE(COALESCE(l.lock_table, ''), '`', '') AS place
FROM information_schema.INNODB_LOCK_WAITS w
  JOIN information_schema.INNODB_TRX r ON r.trx_id = w.requesting_trx_id
  JOIN information_schema.INNODB_TRX b ON b.trx_id = w.blocking_trx_id
  LEFT JOIN information_schema.INNODB_LOCKS l ON l.lock_id = w.requested_lock_id LIMIT 1000
"""
_BLOCKED_BY_ROW_MYSQL = """
SELECT r.PROCESSLIST_ID AS waiting, b.PROCESSLIST_ID AS blocking,
  CONCAT(l.OBJECT_SCHEMA, '.', l.OBJECT_NAME) AS place
FROM performance_schema.data_lock_waits w
  JOIN performance_schema.data_locks l ON l.ENGINE_LOCK_ID = w.REQUESTING_ENGINE_LOCK_ID
  JOIN performance_schema.threads r ON r.THREAD_ID = w.REQUESTING_THREAD_ID
  JOIN performance_schema.threads b ON b.THREAD_ID = w.BLOCKING_THREAD_ID LIMIT 1000
"""
# MariaDB shows who holds a metadata lock, not who waits for it: that is said by the waiting thread's state.
_HOLDERS_MARIADB = """
SELECT m.THREAD_ID AS holder, CONCAT(m.TABLE_SCHEMA, '.', m.TABLE_NAME) AS place, NULL AS waiting
FROM information_schema.METADATA_LOCK_INFO m WHERE m.TABLE_NAME <> '' LIMIT 5000
"""
_HOLDERS_MYSQL = """
SELECT t.PROCESSLIST_ID AS holder, CONCAT(m.OBJECT_SCHEMA, '.', m.OBJECT_NAME) AS place,
  m.LOCK_STATUS = 'PENDING' AS waiting
FROM performance_schema.metadata_locks m JOIN performance_schema.threads t ON t.THREAD_ID = m.OWNER_THREAD_ID
WHERE m.OBJECT_TYPE = 'TABLE' LIMIT 5000
"""
_THREADS_MARIADB = """
SELECT p.ID AS id, p.USER AS user, COALESCE(p.DB, '') AS db, p.COMMAND AS command,
  p.TIME_MS / 1000 AS seconds, COALESCE(p.STATE, '') AS state, LEFT(COALESCE(p.INFO, ''), 600) AS query,
  p.QUERY_ID AS query_id, t.trx_id IS NOT NULL AS in_transaction
FROM information_schema.PROCESSLIST p
  LEFT JOIN information_schema.INNODB_TRX t ON t.trx_mysql_thread_id = p.ID
WHERE p.ID <> CONNECTION_ID() ORDER BY p.ID LIMIT 5000
"""
_THREADS_MYSQL = """
SELECT p.ID AS id, p.USER AS user, COALESCE(p.DB, '') AS db, p.COMMAND AS command,
  IF(p.COMMAND = 'Sleep', p.TIME, COALESCE(e.TIMER_WAIT / 1e12, p.TIME)) AS seconds,
  COALESCE(p.STATE, '') AS state, LEFT(COALESCE(p.INFO, ''), 600) AS query,
  COALESCE(e.EVENT_ID, 0) AS query_id, x.trx_id IS NOT NULL AS in_transaction
FROM performance_schema.processlist p
  JOIN performance_schema.threads t ON t.PROCESSLIST_ID = p.ID
  LEFT JOIN performance_schema.events_statements_current e
    ON e.THREAD_ID = t.THREAD_ID AND e.NESTING_EVENT_LEVEL = 0
  LEFT JOIN information_schema.INNODB_TRX x ON x.trx_mysql_thread_id = p.ID
WHERE p.ID <> CONNECTION_ID() ORDER BY p.ID LIMIT 5000
"""
_VARIABLE_MARIADB = """
SELECT VARIABLE_NAME AS name, GLOBAL_VALUE AS value, READ_ONLY = 'NO' AS is_dynamic,
  VARIABLE_SCOPE <> 'SESSION ONLY' AS is_global, NUMERIC_MIN_VALUE AS minimum, NUMERIC_MAX_VALUE AS maximum
FROM information_schema.SYSTEM_VARIABLES WHERE VARIABLE_NAME = %s
"""
# MySQL does not say which variables are dynamic; the server refuses the others by an error of its own.
_VARIABLE_MYSQL = """
SELECT g.VARIABLE_NAME AS name, g.VARIABLE_VALUE AS value, 1 AS is_dynamic, 1 AS is_global,
  NULLIF(i.MIN_VALUE, '0') AS minimum, NULLIF(i.MAX_VALUE, '0') AS maximum
FROM performance_schema.global_variables g
  JOIN performance_schema.variables_info i ON i.VARIABLE_NAME = g.VARIABLE_NAME
WHERE g.VARIABLE_NAME = %s
"""


@dataclass(frozen=True, slots=True)
class Dialect:
    """One product's way of saying what the actions need.

    Attributes:
        oldest: lowest supported version.
        kill_query: with `{id}` and `{query_id}`; where the server knows numbers of queries, the kill itself
            hits that query only.
        replica: our word -> the column of the replica's status.
        needs: action -> privileges, in the server's own words.
    """

    product: str
    oldest: tuple[int, int, int]
    limit_statement: str
    limit_factor: float
    threads: str
    row_waits: str
    holders: str
    is_waiting_by_state: bool
    kill_query: str
    variable: str
    replica_status: str
    replica_status_all: str
    start_replica: str
    stop_replica: str
    stop_applier: str
    stop_receiver: str
    channel_form: str
    replica_hosts: str
    replica: Mapping[str, str]
    needs: Mapping[str, tuple[str, ...]]
    needs_tables: str = ""


MARIADB = Dialect(
    product="MariaDB",
    oldest=(10, 5, 2),
    limit_statement="SET SESSION max_statement_time = %s, lock_wait_timeout = 5",
    limit_factor=1.0,
    threads=_THREADS_MARIADB,
    row_waits=_BLOCKED_BY_ROW_MARIADB,
    holders=_HOLDERS_MARIADB,
    is_waiting_by_state=True,
    kill_query="KILL QUERY ID {query_id}",
    variable=_VARIABLE_MARIADB,
    replica_status="SHOW REPLICA {channel} STATUS",
    replica_status_all="SHOW ALL REPLICAS STATUS",
    start_replica="START REPLICA {channel}",
    stop_replica="STOP REPLICA {channel}",
    stop_applier="STOP REPLICA {channel} SQL_THREAD",
    stop_receiver="STOP REPLICA {channel} IO_THREAD",
    channel_form="'{name}'",
    replica_hosts="SHOW REPLICA HOSTS",
    replica={
        "receiver": "Slave_IO_Running",
        "applier": "Slave_SQL_Running",
        "receiver_error": "Last_IO_Errno",
        "applier_error": "Last_SQL_Errno",
        "lag": "Seconds_Behind_Master",
        "source_id": "Master_Server_Id",
        "applied_file": "Relay_Master_Log_File",
        "skips": "Skip_Counter",
    },
    needs={
        "mysql.kill_query": ("PROCESS", "CONNECTION ADMIN"),
        "mysql.kill_connections": ("PROCESS", "CONNECTION ADMIN"),
        "mysql.kill_lock_blocker": ("PROCESS", "CONNECTION ADMIN"),
        "mysql.restart_replica": ("SLAVE MONITOR", "REPLICATION SLAVE ADMIN"),
        "mysql.purge_binlogs": (
            "PROCESS",
            "BINLOG ADMIN",
            "BINLOG MONITOR",
            "REPLICATION MASTER ADMIN",
            "SLAVE MONITOR",
        ),
        "mysql.set_global": (),
    },
)

MYSQL = Dialect(
    product="MySQL",
    oldest=(8, 0, 22),
    limit_statement="SET SESSION max_execution_time = %s, SESSION lock_wait_timeout = 5",
    limit_factor=1000.0,
    threads=_THREADS_MYSQL,
    row_waits=_BLOCKED_BY_ROW_MYSQL,
    holders=_HOLDERS_MYSQL,
    is_waiting_by_state=False,
    kill_query="KILL QUERY {id}",
    variable=_VARIABLE_MYSQL,
    replica_status="SHOW REPLICA STATUS {channel}",
    replica_status_all="SHOW REPLICA STATUS",
    start_replica="START REPLICA {channel}",
    stop_replica="STOP REPLICA {channel}",
    stop_applier="STOP REPLICA SQL_THREAD {channel}",
    stop_receiver="STOP REPLICA IO_THREAD {channel}",
    channel_form="FOR CHANNEL '{name}'",
    replica_hosts="SHOW REPLICAS",
    replica={
        "receiver": "Replica_IO_Running",
        "applier": "Replica_SQL_Running",
        "receiver_error": "Last_IO_Errno",
        "applier_error": "Last_SQL_Errno",
        "lag": "Seconds_Behind_Source",
        "source_id": "Source_Server_Id",
        "applied_file": "Relay_Source_Log_File",
        "skips": "Skip_Counter",
    },
    needs={
        "mysql.kill_query": ("PROCESS", "CONNECTION_ADMIN"),
        "mysql.kill_connections": ("PROCESS", "CONNECTION_ADMIN"),
        "mysql.kill_lock_blocker": ("PROCESS", "CONNECTION_ADMIN"),
        "mysql.restart_replica": ("REPLICATION CLIENT", "REPLICATION_SLAVE_ADMIN"),
        "mysql.purge_binlogs": ("PROCESS", "BINLOG_ADMIN", "REPLICATION CLIENT", "REPLICATION SLAVE"),
        "mysql.set_global": ("SYSTEM_VARIABLES_ADMIN",),
    },
    needs_tables="GRANT SELECT ON performance_schema.* TO",
)

# Which privilege MariaDB wants for which variable; everything else needs SUPER there.
_VARIABLE_PRIVILEGES = (
    (
        re.compile(
            r"^(max_connections|connect_timeout|max_connect_errors|slow_launch_time|thread_pool_|extra_max)"
        ),
        "CONNECTION ADMIN",
    ),
    (re.compile(r"^(binlog_|expire_logs_days$|max_binlog_|sync_binlog$|binlog$)"), "BINLOG ADMIN"),
    (re.compile(r"^(slave_|replica_|rpl_semi_sync_slave)"), "REPLICATION SLAVE ADMIN"),
)


def variable_privilege(name: str, dialect: Dialect) -> str:
    """Give the privilege that setting a variable needs."""
    if dialect is MYSQL:
        return "SYSTEM_VARIABLES_ADMIN"
    return next((privilege for pattern, privilege in _VARIABLE_PRIVILEGES if pattern.match(name)), "SUPER")


def version_of(text: str) -> tuple[int, int, int]:
    """Give the version out of what the server says at the start, such as `5.5.5-10.11.6-MariaDB-1`."""
    found = re.findall(r"(\d+)\.(\d+)\.(\d+)", text)
    if not found:
        return 0, 0, 0
    # MariaDB puts a version before its own that old clients believed in.
    major, minor, patch = found[-1] if "MariaDB" in text and len(found) > 1 else found[0]
    return int(major), int(minor), int(patch)


def dialect_of(text: str) -> Dialect:
    """Give the dialect of a server by its version text.

    Raises:
        PermanentError: it is too old.
    """
    dialect, version = MARIADB if "MariaDB" in text else MYSQL, version_of(text)
    if version < dialect.oldest:
        oldest = ".".join(map(str, dialect.oldest))
        raise PermanentError(
            f"{dialect.product} {'.'.join(map(str, version))} is not supported: {oldest} or newer"
        )
    return dialect


def channel(dialect: Dialect, name: str) -> str:
    """Give the words that name a replication channel; none for the default one."""
    return dialect.channel_form.format(name=name) if name else ""
