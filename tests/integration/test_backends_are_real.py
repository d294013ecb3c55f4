"""Each backend of the run is the real program: it does something only the real one can."""

import json
import urllib.request

import pytest
import redis
import sqlalchemy
from backends.chromium import ARGUMENTS
from backends.processes import wait_until
from playwright.async_api import async_playwright

ALERTMANAGER_CONFIG = "route: {receiver: nobody}\nreceivers: [{name: nobody}]\n"
PROMETHEUS_CONFIG = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
scrape_configs: [{{job_name: self, static_configs: [{{targets: ["127.0.0.1:{port}"]}}]}}]
"""


def _get_json(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)


def test_docker_runs_a_container_with_its_own_processes_and_limits(run_container):
    container = run_container(["python3", "-c", "import os; print(os.getpid())"], mem_limit="64m", init=False)
    assert container.wait(timeout=30)["StatusCode"] == 0
    assert container.logs() == b"1\n"
    container.reload()
    assert container.attrs["HostConfig"]["Memory"] == 64 * 2**20


def test_docker_publishes_a_port_on_loopback(run_container):
    container = run_container(["python3", "-m", "http.server", "8000"], ports={"8000/tcp": ("127.0.0.1", 0)})
    container.reload()
    port = container.ports["8000/tcp"][0]["HostPort"]

    def answers():
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/etc/hostname", timeout=1).status == 200
        except OSError:
            return False

    assert wait_until(answers, timeout_seconds=15)


def test_docker_images_have_different_ids_and_the_same_content(docker_client, docker_image, docker_image_2):
    first, second = docker_client.images.get(docker_image), docker_client.images.get(docker_image_2)
    assert first.id != second.id
    assert first.attrs["RootFS"]["Layers"][0] == second.attrs["RootFS"]["Layers"][0]


def test_redis_keeps_a_stream_with_a_consumer_group(redis_url):
    with redis.Redis.from_url(redis_url) as client:
        assert client.ping()
        client.delete("backends-are-real")
        client.xgroup_create("backends-are-real", "readers", id="0", mkstream=True)
        client.xadd("backends-are-real", {"word": "alert"})
        (stream,) = client.xreadgroup("readers", "one", {"backends-are-real": ">"})
        assert stream[1][0][1] == {b"word": b"alert"}


def test_postgres_gives_each_worker_an_empty_database(postgres_url):
    engine = sqlalchemy.create_engine(postgres_url, poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        assert connection.scalar(sqlalchemy.text("select 1")) == 1
        assert connection.scalar(sqlalchemy.text("show server_version_num")) >= "140000"
        assert connection.scalar(sqlalchemy.text("select current_database()")).startswith("test_")


def test_postgres_skips_a_locked_row(fresh_postgres_url):
    engine = sqlalchemy.create_engine(fresh_postgres_url, poolclass=sqlalchemy.NullPool)
    claim = sqlalchemy.text("select n from queue order by n for update skip locked limit 1")
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("create table queue as select n from generate_series(1, 2) n"))
    with engine.connect() as one, engine.connect() as other:
        claimed = [one.scalar(claim), other.scalar(claim)]
    assert claimed == [1, 2]


def test_alertmanager_is_ready_and_keeps_an_alert(alertmanager):
    alertmanager.start(ALERTMANAGER_CONFIG)
    body = json.dumps([{"labels": {"alertname": "TargetDown"}}]).encode()
    request = urllib.request.Request(
        f"{alertmanager.url}/api/v2/alerts", body, {"Content-Type": "application/json"}
    )
    assert urllib.request.urlopen(request, timeout=5).status == 200
    assert [alert["labels"] for alert in _get_json(f"{alertmanager.url}/api/v2/alerts")] == [
        {"alertname": "TargetDown"}
    ]


def test_prometheus_scrapes_itself(prometheus):
    prometheus.start(PROMETHEUS_CONFIG.format(port=prometheus.port))
    url = f"{prometheus.url}/api/v1/query?query=up"
    assert wait_until(lambda: _get_json(url)["data"]["result"], timeout_seconds=20)
    assert _get_json(url)["data"]["result"][0]["value"][1] == "1"


async def test_chromium_runs_a_page_with_script(chromium_path):
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium_path, args=list(ARGUMENTS))
        page = await browser.new_page()
        await page.set_content("<p id=x></p><script>x.textContent = [2, 3].map(n => n * n).join()</script>")
        assert await page.text_content("#x") == "4,9"
        await browser.close()


@pytest.mark.backend("docker", "redis")
def test_a_container_runs_the_redis_of_the_image(run_container):
    container = run_container(["redis-server", "--save", "", "--bind", "127.0.0.1"])
    pong = lambda: container.exec_run(["redis-cli", "ping"]).output == b"PONG\n"  # noqa: E731 - polled below
    assert wait_until(pong, timeout_seconds=15)
