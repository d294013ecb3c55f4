"""`http.call` and the probers without a client library, against real servers on loopback."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote

import pytest
from aiohttp import web
from yarl import URL

from actions.http import CallEndpoint
from actions.http_settings import HttpSettings
from actions.probes import HttpProber, PrometheusProber, TcpProber
from oncall_agent.contract import (
    ActionContext,
    PermanentError,
    Prober,
    Reading,
    Receipt,
    SystemClock,
    Target,
    TransientError,
    run_inline,
)
from oncall_agent.contract import http as contract_http
from oncall_agent.contract.address import refusal
from oncall_agent.contract.http import HttpAnswer, SafeHttp, SentError, UnresolvedError
from oncall_agent.testing import FakePatient, context_for

clock = SystemClock()


class Server:
    """Answers by path; remembers what it was asked."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((request.method, request.raw_path, dict(request.headers)))
        path = request.path
        if path == "/redirect":
            raise web.HTTPFound("http://169.254.169.254/latest/meta-data")
        if path == "/big":
            return web.Response(body=b"x" * 500_000)
        if path.startswith("/status/"):
            return web.Response(status=int(path[8:]), headers={"Retry-After": "7"})
        if path == "/slow":
            await asyncio.sleep(30)
        if path == "/text":
            return web.Response(text="hello")
        return web.json_response({"ok": True, "load": 0.25, "path": path})


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


@pytest.fixture
async def http() -> AsyncIterator[SafeHttp]:
    async with SafeHttp(max_body_bytes=100_000) as http:
        yield http


# --- the safe client ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "fe80::1",
        "fe80::1%eth0",
        "fd00:ec2::254",
        "100.100.100.200",
        "168.63.129.16",
        "224.0.0.1",
        "ff02::1",
        "0.0.0.0",
        "::",
        "255.255.255.255",
        "240.0.0.1",
    ],
)
def test_address_is_refused(address: str) -> None:
    assert refusal(address) is not None


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::1", "10.0.0.5", "192.168.1.1", "fd12::1", "93.184.216.34"]
)
def test_address_is_permitted_when_its_host_is_listed(address: str) -> None:
    assert refusal(address) is None


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("http://other.example/", ("127.0.0.1",)),
        ("http://127.0.0.1:1/", ("127.0.0.1:2",)),
        ("http://127.0.0.1.evil.example/", ("127.0.0.1",)),
        ("http://169.254.169.254/", ("169.254.169.254",)),
        ("http://[::ffff:169.254.169.254]/", ("::ffff:169.254.169.254", "::ffff:a9fe:a9fe")),
        ("http://user:pass@127.0.0.1/", ("127.0.0.1",)),
        ("file:///etc/passwd", ("",)),
        ("gopher://127.0.0.1/", ("127.0.0.1",)),
        ("//127.0.0.1/", ("127.0.0.1",)),
        ("http://[bad/", ("bad",)),
    ],
)
async def test_url_is_refused_before_anything_is_sent(
    url: str, allowed: tuple[str, ...], http: SafeHttp
) -> None:
    with pytest.raises(PermanentError):
        await http.send("GET", url, allowed=allowed, timeout_seconds=1.0)


async def test_a_name_is_resolved_once_and_the_checked_address_is_called(
    server: Server, http: SafeHttp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name server that changes its answer after the check must not matter."""
    answers = iter(["127.0.0.1", "169.254.169.254", "169.254.169.254"])
    port = int(server.url.rpartition(":")[2])

    async def resolve(
        _self: Any, host: str, port: int = 0, _family: int = socket.AF_INET
    ) -> list[dict[str, Any]]:
        return [
            {
                "hostname": host,
                "host": next(answers),
                "port": port,
                "family": socket.AF_INET,
                "proto": 6,
                "flags": 0,
            }
        ]

    monkeypatch.setattr(contract_http.aiohttp.ThreadedResolver, "resolve", resolve)
    url = f"http://rebinding.example:{port}/text"
    for _ in range(2):
        answer = await http.send("GET", url, allowed=("rebinding.example",), timeout_seconds=2.0)
        assert answer.body == b"hello"
    assert next(answers) == "169.254.169.254"


async def test_a_name_that_resolves_to_a_metadata_address_is_refused(
    http: SafeHttp, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def resolve(
        _self: Any, host: str, port: int = 0, _family: int = socket.AF_INET
    ) -> list[dict[str, Any]]:
        return [{"hostname": host, "host": ip, "port": port, "family": socket.AF_INET, "proto": 6, "flags": 0}
                for ip in ("10.0.0.1", "169.254.169.254")]  # fmt: skip

    monkeypatch.setattr(contract_http.aiohttp.ThreadedResolver, "resolve", resolve)
    with pytest.raises(PermanentError, match="link-local"):
        await http.send("GET", "http://inner.example/", allowed=("inner.example",), timeout_seconds=2.0)


async def test_a_redirect_is_an_answer_and_is_not_followed(server: Server, http: SafeHttp) -> None:
    answer = await http.send("GET", server.url + "/redirect", allowed=("127.0.0.1",), timeout_seconds=2.0)
    assert (answer.status, len(server.seen)) == (302, 1)
    with pytest.raises(PermanentError):
        answer.check()


async def test_a_long_answer_is_an_error(server: Server, http: SafeHttp) -> None:
    with pytest.raises(PermanentError, match="longer than 100000 bytes"):
        await http.send("GET", server.url + "/big", allowed=("127.0.0.1",), timeout_seconds=2.0)


async def test_no_answer_in_time_is_sent_and_transient(server: Server, http: SafeHttp) -> None:
    with pytest.raises(SentError, match=r"no answer within 0\.1 s"):
        await http.send("POST", server.url + "/slow", allowed=("127.0.0.1",), timeout_seconds=0.1)


async def test_a_refused_connection_is_transient_and_nothing_was_sent(http: SafeHttp) -> None:
    with pytest.raises(TransientError) as caught:
        await http.send("POST", "http://127.0.0.1:1/", allowed=("127.0.0.1",), timeout_seconds=1.0)
    assert not isinstance(caught.value, SentError)


async def test_an_unknown_name_is_unresolved(http: SafeHttp) -> None:
    with pytest.raises(UnresolvedError):
        await http.send("GET", "http://no-such.invalid/", allowed=("no-such.invalid",), timeout_seconds=5.0)


async def test_no_message_carries_the_query_or_a_secret(server: Server, http: SafeHttp) -> None:
    with pytest.raises(TransientError) as caught:
        await http.send(
            "GET", server.url + "/slow?token=hunter2", allowed=("127.0.0.1",), timeout_seconds=0.05
        )
    assert "hunter2" not in f"{caught.value!r} {caught.value.__cause__!r}"


async def test_connections_are_kept(server: Server, http: SafeHttp) -> None:
    for _ in range(20):
        await http.send("GET", server.url + "/text", allowed=("127.0.0.1",), timeout_seconds=2.0)
    assert len(http._session.connector._conns) == 1


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (503, TransientError),
        (429, TransientError),
        (500, TransientError),
        (404, PermanentError),
        (301, PermanentError),
    ],
)
def test_status_is_sorted_by_what_happens_next(status: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        HttpAnswer(status).check()


def test_retry_after_is_passed_on() -> None:
    with pytest.raises(TransientError) as caught:
        HttpAnswer(503, headers={"Retry-After": "7"}).check()
    assert caught.value.retry_after_seconds == 7.0


# --- http.call ---------------------------------------------------------------------------------------------


def call(url: str, **endpoint: Any) -> CallEndpoint:
    return CallEndpoint({"endpoints": {"flush": {"url": url, **endpoint}}})


def attempt(url: str = "", *, seconds: float = 2.0, key: str = "", **variables: str) -> ActionContext:
    return context_for(
        CallEndpoint.spec.params(endpoint="flush", vars=variables),
        Target("shop", "http_app", address={"url": url} if url else {}),
        clock=clock,
        seconds=seconds,
        key=key,
    )


async def test_the_happy_path_costs_one_post_and_one_get() -> None:
    async with FakePatient() as patient:
        question = {"url": "/api/v1/status", "assertion": "flushes == `1`"}
        async with call("/flush", verify=question) as executor:
            ctx = attempt(patient.url)
            assert (await executor.precheck(ctx)).ok
            receipt = await executor.execute(ctx)
            assert (await executor.verify(ctx, receipt)).ok
        assert patient.requests == [("POST", "/flush"), ("GET", "/api/v1/status")]


async def test_verify_fails_while_the_assertion_does_not_hold(server: Server) -> None:
    question = {
        "url": server.url + "/x",
        "assertion": "load > `0.5`",
        "within_seconds": 0.1,
        "interval_seconds": 0.05,
    }
    async with call(server.url + "/flush", verify=question) as executor:
        ctx = attempt()
        check = await executor.verify(ctx, await executor.execute(ctx))
    assert (check.ok, check.reason) == (False, "the assertion does not hold")


async def test_verify_without_a_question_needs_the_answer_of_the_call(server: Server) -> None:
    async with call(server.url + "/flush") as executor:
        ctx = attempt()
        assert (await executor.verify(ctx, await executor.execute(ctx))).ok
        assert not (await executor.verify(ctx, Receipt("http.call", 0.0, {}, partial=True))).ok


async def test_undo_is_the_paired_call_under_a_key_of_its_own(server: Server) -> None:
    async with call(server.url + "/on", undo={"url": server.url + "/off"}) as executor:
        ctx = attempt()
        assert (await executor.rollback(ctx, await executor.execute(ctx))).ok
    assert [(path, headers["Idempotency-Key"]) for _, path, headers in server.seen] == [
        ("/on", ctx.idempotency_key),
        ("/off", f"{ctx.idempotency_key}-undo"),
    ]


async def test_rollback_without_an_undo_says_so(server: Server) -> None:
    async with call(server.url + "/on") as executor:
        check = await executor.rollback(attempt(), Receipt("http.call", 0.0))
    assert (check.ok, check.reason) == (False, "the endpoint declares no undo")


async def test_variables_are_encoded_and_can_not_leave_their_place(server: Server) -> None:
    wild = "../a?b=c#d&e/%2e"
    async with call(
        server.url + "/cache/{name}?scope={name}", vars={"name": ".+"}, body={"k": "{name}"}
    ) as executor:
        await executor.execute(attempt(name=wild))
    seen = URL(server.seen[0][1], encoded=True)
    assert [unquote(part) for part in seen.raw_parts] == ["/", "cache", wild]
    assert dict(seen.query) == {"scope": wild}


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({}, "not as declared"),
        ({"name": "UPPER"}, "not as declared"),
        ({"name": "ok", "other": "x"}, "not declared"),
    ],
    ids=["missing", "pattern", "undeclared"],
)
async def test_precheck_refuses_wrong_variables(
    variables: dict[str, str], reason: str, server: Server
) -> None:
    async with call(server.url + "/{name}", vars={"name": "[a-z]+"}) as executor:
        check = await executor.precheck(attempt(**variables))
    assert not check.ok
    assert reason in check.reason
    assert server.seen == []


async def test_precheck_refuses_an_endpoint_that_is_not_declared() -> None:
    check = await CallEndpoint({}).precheck(attempt())
    assert (check.ok, check.reason) == (False, "no endpoint is named 'flush'")


@pytest.mark.parametrize(("path", "idempotent"), [("/slow", False), ("/status/500", False)])
async def test_an_unclear_end_is_permanent_with_a_receipt(
    path: str, idempotent: bool, server: Server
) -> None:
    async with call(server.url + path, idempotent=idempotent) as executor:
        with pytest.raises(PermanentError, match="may have acted") as caught:
            await executor.execute(attempt(seconds=0.2))
    assert caught.value.receipt_facts["endpoint"] == "flush"


@pytest.mark.parametrize("path", ["/slow", "/status/500"])
async def test_an_unclear_end_may_be_repeated_when_the_server_honours_the_key(
    path: str, server: Server
) -> None:
    async with call(server.url + path, idempotent=True) as executor:
        with pytest.raises(TransientError):
            await executor.execute(attempt(seconds=0.2))


async def test_a_host_off_the_list_is_refused(server: Server) -> None:
    executor = CallEndpoint({"hosts": ["allowed.example"], "endpoints": {"flush": {"url": server.url + "/"}}})
    async with executor:
        with pytest.raises(PermanentError, match="not on the list"):
            await executor.execute(attempt())
    assert server.seen == []


@pytest.mark.parametrize(
    "endpoint",
    [
        {"url": "http://{host}/", "vars": {"host": ".*"}},
        {"url": "http://a.example/{name}"},
        {"url": "http://user:secret@a.example/"},
        {"url": "ftp://a.example/"},
        {"url": "http://a.example/", "verify": {"url": "/x", "assertion": "a ==== b"}},
        {"url": "http://a.example/", "vars": {"name": "("}},
        {"url": "http://a.example/", "body": {"deep": ["{name}"]}},
        {"url": "http://a.example/", "secret_headers": {"Authorization": "hunter2"}},
        {"url": "http://a.example/", "unknown": 1},
    ],
    ids=[
        "host variable",
        "undeclared",
        "credentials",
        "scheme",
        "jmespath",
        "regex",
        "body variable",
        "secret",
        "key",
    ],
)
def test_settings_are_refused(endpoint: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        HttpSettings.model_validate({"endpoints": {"flush": endpoint}})


# --- probers -----------------------------------------------------------------------------------------------


async def read(prober: Prober, target: Target, seconds: float = 2.0, **params: Any) -> Reading:
    async with prober:
        return await prober.read(
            target,
            prober.params.model_validate(params),
            timeout_seconds=seconds,
            clock=clock,
            run_blocking=run_inline,
        )


@pytest.mark.parametrize(
    ("params", "up"),
    [
        ({"url": "/x"}, True),
        ({"url": "/status/500"}, False),
        ({"url": "/redirect"}, False),
        ({"url": "/x", "assertion": "ok"}, True),
        ({"url": "/x", "assertion": "load > `0.5`"}, False),
        ({"url": "/text", "assertion": "ok"}, False),
        ({"url": "/slow"}, False),
    ],
    ids=["page", "status", "redirect", "assertion", "false assertion", "no json", "slow"],
)
async def test_http_prober(params: dict[str, Any], up: bool, server: Server) -> None:
    reading = await read(
        HttpProber({}), Target("web", "http_app", address={"url": server.url}), 0.5, **params
    )
    assert reading.signals.up is up


async def test_http_prober_takes_signals_from_the_answer(server: Server) -> None:
    target = Target("web", "http_app", address={"url": server.url})
    reading = await read(HttpProber({}), target, url="/x", signals={"cpu": "load", "memory": "path"})
    assert (reading.signals.cpu, reading.signals.memory) == (0.25, None)


async def test_prometheus_prober_takes_the_worst_series_and_leaves_out_what_is_no_number() -> None:
    vectors = {"errors": ["0.1", "0.4"], "up": ["1", "0"], "none": [], "nan": ["NaN"]}

    async def answer(request: web.Request) -> web.Response:
        series = [{"metric": {}, "value": [1.0, value]} for value in vectors[request.query["query"]]]
        return web.json_response({"status": "success", "data": {"resultType": "vector", "result": series}})

    app = web.Application()
    app.router.add_get("/api/v1/query", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    queries = {"error_rate": "errors", "up": "up", "cpu": "none", "memory": "nan"}
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    reading = await read(PrometheusProber({"url": url}), Target("web", "http_app"), queries=queries)
    await runner.cleanup()
    signals = reading.signals
    assert (signals.error_rate, signals.up, signals.cpu, signals.memory) == (0.4, False, None, None)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", None], ids=["refused", "not configured"])
async def test_an_unreachable_prometheus_is_blindness(url: str | None) -> None:
    with pytest.raises(TransientError):
        await read(PrometheusProber({"url": url}), Target("web", "http_app"), queries={"up": "up"})


@pytest.mark.backend("redis")
async def test_tcp_prober_speaks_to_a_real_redis(redis_url: str) -> None:
    host, _, port = redis_url.removeprefix("redis://").partition("/")[0].partition(":")
    target = Target("cache", "tcp", address={"host": host, "port": int(port)})
    reading = await read(TcpProber({}), target, send="PING\r\n", expect="+PONG")
    assert (reading.signals.up, reading.facts["reply"]) == (True, "+PONG\r\n")
    wrong = await read(TcpProber({}), target, send="PING\r\n", expect="-ERR")
    assert wrong.signals.up is False


async def test_tcp_prober_calls_a_closed_and_a_silent_port_down() -> None:
    hung_up = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()
        hung_up.set()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as silent:
        port = silent.sockets[0].getsockname()[1]
        for target, params in (
            ({"host": "127.0.0.1", "port": 1}, {}),
            ({"host": "127.0.0.1", "port": port}, {"expect": "hi"}),
        ):
            reading = await read(TcpProber({}), Target("cache", "tcp", address=target), 0.2, **params)
            assert reading.signals.up is False
        await asyncio.wait_for(hung_up.wait(), 2.0)


@pytest.mark.parametrize(
    "address", [{"host": "169.254.169.254", "port": 80}, {}, {"host": "no-such.invalid", "port": 1}]
)
async def test_tcp_prober_is_blind_without_a_permitted_address(address: dict[str, Any]) -> None:
    with pytest.raises(TransientError):
        await read(TcpProber({}), Target("cache", "tcp", address=address))
