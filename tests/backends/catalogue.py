"""Every backend and every module of fixtures on them: a new one is one line in each list.

A backend stands after those that it depends on.
"""

from backends.airflow_server import Airflow
from backends.alerting import AlertmanagerBinary, PrometheusBinary
from backends.base import Backend
from backends.chromium import Chromium
from backends.compose_plugin import ComposeFile
from backends.docker_engine import Docker
from backends.docker_small import DockerSmall
from backends.ferretdb_server import FerretDB
from backends.filesystem_tools import FilesystemTools
from backends.kubernetes_server import Kubernetes
from backends.mariadb_server import MariaDB
from backends.memcached_server import Memcached
from backends.mysql_server import MySQL
from backends.nginx_server import HaproxyBinary, NginxBinary
from backends.postgres_server import Postgres
from backends.postgres_sick import PostgresSick
from backends.redis_server import Redis
from backends.spark_server import Spark
from backends.swarm_server import Swarm
from backends.systemd_server import Systemd
from backends.toxiproxy_server import Toxiproxy
from backends.varnish_server import VarnishBinary

ALL: tuple[type[Backend], ...] = (
    Docker,
    ComposeFile,
    FilesystemTools,
    DockerSmall,
    Swarm,
    NginxBinary,
    Memcached,
    Redis,
    Postgres,
    PostgresSick,
    MariaDB,
    MySQL,
    FerretDB,
    AlertmanagerBinary,
    PrometheusBinary,
    Chromium,
    Systemd,
    Airflow,
    Kubernetes,
    Spark,
    HaproxyBinary,
    VarnishBinary,
    Toxiproxy,
)
NAMES = tuple(backend.name for backend in ALL)
FIXTURE_MODULES = [
    "backends.fixtures",
    "backends.systemd_fixtures",
    "backends.filesystem_fixtures",
    "backends.airflow_fixtures",
    "backends.redis_fixtures",
    "backends.sql_fixtures",
    "backends.docker_fixtures",
    "backends.swarm_fixtures",
    "backends.compose_fixtures",
    "backends.nginx_fixtures",
    "backends.kubernetes_fixtures",
    "backends.kubernetes_scenes",
    "backends.spark_fixtures",
    "backends.toxiproxy_fixtures",
    "backends.mongodb_fixtures",
    "backends.memcached_fixtures",
]
