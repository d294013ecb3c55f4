"""A replica that is made to stop over something passing."""

from __future__ import annotations

from typing import Any

from backends.mariadb_server import Connection

from scenes.mysql import World


def status(db: World) -> dict[str, Any]:
    """The replica's own words, in those of MySQL."""
    assert db.replica is not None
    row = db.replica.ask("SHOW REPLICA STATUS")[0]
    if db.product == "mysql":
        return row
    return {
        "Replica_SQL_Running": row["Slave_SQL_Running"],
        "Replica_IO_Running": row["Slave_IO_Running"],
        "Last_SQL_Errno": row["Last_SQL_Errno"],
    }


def stop_over_a_lock(db: World) -> Connection:
    """Somebody at the replica holds the row that the source changes: the applier gives up; give the holder."""
    assert db.replica is not None
    # The timeout is taken up by the applier when it starts.
    shortest = 0 if db.product == "mariadb" else 1
    db.replica.ask(
        f"SET GLOBAL innodb_lock_wait_timeout = {shortest}",
        "STOP REPLICA SQL_THREAD",
        "START REPLICA SQL_THREAD",
    )
    db.session(
        "CREATE TABLE IF NOT EXISTS stock (n INT PRIMARY KEY, m INT)", "REPLACE INTO stock VALUES (1, 0)"
    )
    db.until(
        lambda: at_copy(db, "SELECT COUNT(*) AS n FROM information_schema.TABLES WHERE TABLE_SCHEMA = %r")
    )
    db.until(lambda: at_copy(db, "SELECT COUNT(*) AS n FROM %s.stock"))
    holder = Connection(host="127.0.0.1", port=db.replica.port, user="root", password=db.replica.password)
    db.opened.append(holder)
    with holder.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute(f"SELECT n FROM {db.database}.stock FOR UPDATE")
    db.session("UPDATE stock SET m = m + 1")
    db.until(lambda: status(db)["Replica_SQL_Running"] == "No", seconds=20)
    assert status(db)["Last_SQL_Errno"] == 1205
    return holder


def at_copy(db: World, statement: str) -> int:
    assert db.replica is not None
    return int(str(db.replica.ask(statement % db.database)[0]["n"]))
