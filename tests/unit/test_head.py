"""The head of a plain webhook: what is read, and what is left to the HTTP library."""

import pytest

from oncall_agent.web.head import plain_head

PLAIN = (
    b"POST /webhooks/alertmanager HTTP/1.1\r\nHost: localhost:9467\r\nUser-Agent: Alertmanager/0.27.0\r\n"
    b"Content-Length: 12\r\nContent-Type: application/json\r\nAuthorization: Bearer  a b\t\r\nX-Empty:"
)


def test_a_plain_head_is_read():
    head = plain_head(PLAIN)
    assert head is not None
    assert ("alertmanager", 12, "localhost:9467", "POST") == (
        head.source,
        head.length,
        head.host,
        head.method,
    )
    assert ("Bearer  a b", "") == (head.headers["authorization"], head.headers["x-empty"])


def test_fields_are_found_in_any_case():
    head = plain_head(PLAIN.replace(b"Content-Length", b"content-length").replace(b"Host", b"HOST"))
    assert head is not None
    assert ("localhost:9467", 12) == (head.headers["Host"], head.length)


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(PLAIN.replace(b"POST", b"PUT"), id="other method"),
        pytest.param(PLAIN.replace(b"POST", b"post"), id="method in small letters"),
        pytest.param(PLAIN.replace(b"1.1", b"1.0"), id="old version"),
        pytest.param(PLAIN.replace(b" /webhooks", b"  /webhooks"), id="two spaces"),
        pytest.param(PLAIN.replace(b"/webhooks/", b"http://a/webhooks/"), id="whole address"),
        pytest.param(PLAIN.replace(b"alertmanager ", b"a/b "), id="deeper path"),
        pytest.param(PLAIN.replace(b"alertmanager ", b"a%20b "), id="escaped path"),
        pytest.param(PLAIN.replace(b"alertmanager ", b"a?b "), id="query"),
        pytest.param(PLAIN.replace(b"alertmanager ", b" "), id="no source"),
        pytest.param(PLAIN.replace(b"Host: localhost:9467\r\n", b""), id="no host"),
        pytest.param(PLAIN.replace(b"Content-Length: 12\r\n", b""), id="no length"),
        pytest.param(PLAIN + b"\r\nContent-Length: 12", id="length twice"),
        pytest.param(PLAIN + b"\r\nhost: other", id="host twice in another case"),
        pytest.param(PLAIN.replace(b": 12", b": +12"), id="signed length"),
        pytest.param(PLAIN.replace(b": 12", b": -1"), id="negative length"),
        pytest.param(PLAIN.replace(b": 12", b": 1 2"), id="broken length"),
        pytest.param(PLAIN.replace(b": 12", b": 0x12"), id="hexadecimal length"),
        pytest.param(PLAIN.replace(b": 12", b": " + b"9" * 10), id="endless length"),
        pytest.param(PLAIN.replace(b"Content-Length:", b"Content-Length :"), id="space before the colon"),
        pytest.param(PLAIN.replace(b"X-Empty", b" X-Empty"), id="folded line"),
        pytest.param(PLAIN.replace(b"X-Empty:", b"X-Empty"), id="no colon"),
        pytest.param(PLAIN.replace(b"X-Empty:", b":"), id="no name"),
        pytest.param(PLAIN + b"a\nContent-Length: 3", id="bare line feed"),
        pytest.param(PLAIN + b"a\rb", id="bare carriage return"),
        pytest.param(PLAIN + b"a\0b", id="nul"),
        pytest.param(PLAIN + "ä".encode(), id="not ascii"),
        pytest.param(PLAIN + b"\r\nTransfer-Encoding: chunked", id="chunked"),
        pytest.param(PLAIN + b"\r\ntransfer-encoding: identity", id="any other framing"),
        pytest.param(PLAIN + b"\r\nContent-Encoding: gzip", id="packed"),
        pytest.param(PLAIN + b"\r\nExpect: 100-continue", id="expects a go-ahead"),
        pytest.param(PLAIN + b"\r\nConnection: close", id="last of its connection"),
        pytest.param(PLAIN + b"\r\nUpgrade: h2c", id="upgrade"),
        pytest.param(PLAIN + b"\r\nTrailer: X-Sum", id="trailer"),
    ],
)
def test_whatever_needs_more_of_http_is_not_plain(head: bytes):
    assert plain_head(head) is None
