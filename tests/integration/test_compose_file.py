"""docker-compose.test.yml brings its servers up: those that Debian has, in an image of Debian's packages."""

from __future__ import annotations

import json
import socket
import urllib.request
from typing import Any

import psycopg2
import pymysql
import pytest
import redis
import yaml
from backends.compose import FILE, INSTEAD
from backends.compose_servers import SERVICES
from backends.processes import wait_until

WAIT_SECONDS = 120
SECRET_WORDS = ("PASSWORD", "SECRET", "TOKEN", "KEY")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_every_service_that_debian_has_becomes_healthy_and_does_its_work(compose) -> None:
    compose("up", "-d", "--wait", "--wait-timeout", str(WAIT_SECONDS), *SERVICES)
    shown = [json.loads(line) for line in compose("ps", "--format", "json").splitlines()]
    assert {one["Service"]: one["Health"] for one in shown} == dict.fromkeys(SERVICES, "healthy")
    published = {port["URL"] for one in shown for port in one["Publishers"] or [] if port["PublishedPort"]}
    assert published == {"127.0.0.1"}

    def at(service: str, port: int) -> tuple[str, int]:
        host, _, number = compose("port", service, str(port)).strip().rpartition(":")
        return host, int(number)

    _check_redis(at("redis", 6379), at("redis-replica", 6379))
    _check_postgres(at("postgres", 5432))
    _check_mariadb(at("mariadb", 3306), at("mariadb-replica", 3306))
    _check_memcached(at("memcached", 11211))
    assert _read(at("nginx", 80)) == _read(at("haproxy", 8080)) == b"well\n"


def _check_redis(primary: tuple[str, int], replica: tuple[str, int]) -> None:
    with redis.Redis(*primary) as one, redis.Redis(*replica) as other:
        one.set("word", "alert")
        assert one.wait(1, 10_000) == 1
        assert other.get("word") == b"alert"


def _check_postgres(place: tuple[str, int]) -> None:
    connection = psycopg2.connect(host=place[0], port=place[1], user="postgres", dbname="postgres")
    with connection, connection.cursor() as cursor:
        cursor.execute("show fsync")
        assert cursor.fetchone() == ("off",)
    connection.close()


def _check_mariadb(primary: tuple[str, int], replica: tuple[str, int]) -> None:
    _ask(primary, "create database of_the_test")
    assert wait_until(lambda: ("of_the_test",) in _ask(replica, "show databases"), timeout_seconds=20)
    assert _ask(replica, "select @@read_only") == ((1,),)


def _ask(place: tuple[str, int], statement: str) -> Any:
    with (
        pymysql.connect(host=place[0], port=place[1], user="root") as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(statement)
        return cursor.fetchall()


def _check_memcached(place: tuple[str, int]) -> None:
    with socket.create_connection(place, timeout=5) as connection:
        connection.sendall(b"set word 0 60 5\r\nalert\r\nget word\r\n")
        said = b""
        while b"END\r\n" not in said:
            said += connection.recv(4_096)
    assert said == b"STORED\r\nVALUE word 0 5\r\nalert\r\nEND\r\n"


def _read(place: tuple[str, int]) -> bytes:
    with urllib.request.urlopen(f"http://{place[0]}:{place[1]}/", timeout=5) as answer:
        return bytes(answer.read())


# --- what holds for every service, also for those that need a registry ---------------------------------------


def _services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text())["services"]
    return {name: service for name, service in found.items() if name != "image"}


@pytest.mark.parametrize("name", _services())
def test_every_service_is_pinned_checked_and_on_loopback_without_a_secret(name: str) -> None:
    service = _services()[name]
    tag = service["image"].removesuffix("}").rpartition(":")[2]
    assert any(character.isdigit() for character in tag), "the tag pins no version"
    assert "healthcheck" in service or "/ferretdb:" in service["image"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert [
        key
        for key in service.get("environment", {})
        if key.endswith(SECRET_WORDS) and "ALLOW_EMPTY" not in key
    ] == []


def test_what_replaces_a_missing_backend_is_in_the_file() -> None:
    assert set(INSTEAD) <= set(_services())
    assert set(SERVICES) <= set(_services())
