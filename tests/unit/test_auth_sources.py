"""Authentication of webhooks: what passes, what is refused and by which code."""

import hashlib
import hmac
from pathlib import Path

import orjson
import pytest
from multidict import CIMultiDict

from oncall_agent.contract.secret import Secret
from oncall_agent.errors import AuthError
from oncall_agent.settings.model import Auth, BasicAuth, BearerAuth, HmacAuth, NoAuth
from oncall_agent.sources.auth import needs_body, verify

PAYLOADS = Path(__file__).parents[1] / "payloads"
CAPTURED = orjson.loads((PAYLOADS / "alertmanager-http-headers.json").read_bytes())
NOW = 1_795_245_342.0
BODY = b'{"alerts": []}'
BEARER = BearerAuth(kind="bearer", token="env:TOKEN")
BASIC = BasicAuth(kind="basic", username="am", password="env:PASSWORD")
SIGNED = HmacAuth(kind="hmac", secret="env:KEY", header="X-Sign")
STAMPED = HmacAuth(
    kind="hmac", secret="env:KEY", header="X-Sign", timestamp_header="X-Time", window_seconds=300
)
SECRETS = {"env:TOKEN": "tok-123", "env:PASSWORD": "s3cret-pass", "env:KEY": "k3y"}


def secrets(reference: str) -> Secret:
    return Secret(SECRETS[reference])


def check(auth: Auth, headers: dict[str, str], body: bytes = BODY) -> None:
    verify(auth, CIMultiDict(headers), body, NOW, secrets)


def signature(text: bytes = BODY, key: bytes = b"k3y") -> str:
    return hmac.new(key, text, hashlib.sha256).hexdigest()


@pytest.mark.parametrize("name", CAPTURED, ids=str)
def test_the_headers_that_the_real_sender_sent_are_authentic(name: str) -> None:
    auth = {"/basic": BASIC, "/bearer": BEARER}.get(CAPTURED[name]["path"], NoAuth())
    check(auth, CAPTURED[name]["headers"])


AUTHENTIC = {
    "nobody-is-asked": (NoAuth(), {}),
    "bearer": (BEARER, {"authorization": "Bearer tok-123"}),
    "bearer-any-case": (BEARER, {"Authorization": "bEARER tok-123"}),
    "basic": (BASIC, {"Authorization": "Basic YW06czNjcmV0LXBhc3M="}),
    "hmac": (SIGNED, {"X-Sign": signature()}),
    "hmac-prefixed": (SIGNED, {"X-Sign": f"sha256={signature()}"}),
    "hmac-upper-case": (SIGNED, {"X-Sign": signature().upper()}),
    "hmac-second-of-two": (SIGNED, {"X-Sign": f"v1={signature(key=b'old')}, v1={signature()}"}),
    "hmac-stamped": (STAMPED, {"X-Sign": signature(b"1795245342:" + BODY), "X-Time": "1795245342"}),
    "hmac-edge-of-window": (STAMPED, {"X-Sign": signature(b"1795245042:" + BODY), "X-Time": "1795245042"}),
}


@pytest.mark.parametrize(("auth", "headers"), AUTHENTIC.values(), ids=AUTHENTIC.keys())
def test_an_authentic_request_passes(auth: Auth, headers: dict[str, str]) -> None:
    check(auth, headers)


REFUSED = {
    "bearer-none": (BEARER, {}, "unauthenticated"),
    "bearer-empty": (BEARER, {"Authorization": "Bearer "}, "unauthenticated"),
    "bearer-other-scheme": (BEARER, {"Authorization": "Basic YW06czNjcmV0LXBhc3M="}, "unauthenticated"),
    "bearer-wrong": (BEARER, {"Authorization": "Bearer tok-124"}, "bad_credentials"),
    "bearer-prefix": (BEARER, {"Authorization": "Bearer tok-12"}, "bad_credentials"),
    "bearer-not-ascii": (BEARER, {"Authorization": "Bearer tök\udcff"}, "bad_credentials"),
    "basic-none": (BASIC, {}, "unauthenticated"),
    "basic-wrong-password": (BASIC, {"Authorization": "Basic YW06d3Jvbmc="}, "bad_credentials"),
    "basic-not-base64": (BASIC, {"Authorization": "Basic %%%%"}, "bad_credentials"),
    "basic-not-ascii": (BASIC, {"Authorization": "Basic ü\udcff"}, "bad_credentials"),
    "hmac-none": (SIGNED, {}, "unauthenticated"),
    "hmac-wrong-key": (SIGNED, {"X-Sign": signature(key=b"other")}, "bad_signature"),
    "hmac-other-body": (SIGNED, {"X-Sign": signature(b"{}")}, "bad_signature"),
    "hmac-not-hex": (SIGNED, {"X-Sign": "sha256=zz\udcff"}, "bad_signature"),
    "hmac-ninth-of-many": (SIGNED, {"X-Sign": "00," * 8 + signature()}, "bad_signature"),
    "stamp-missing": (STAMPED, {"X-Sign": signature()}, "unauthenticated"),
    "stamp-not-signed": (STAMPED, {"X-Sign": signature(), "X-Time": "1795245342"}, "bad_signature"),
    "stamp-old": (
        STAMPED,
        {"X-Sign": signature(b"1795245041:" + BODY), "X-Time": "1795245041"},
        "stale_timestamp",
    ),
    "stamp-future": (
        STAMPED,
        {"X-Sign": signature(b"1795245643:" + BODY), "X-Time": "1795245643"},
        "stale_timestamp",
    ),
    "stamp-word": (STAMPED, {"X-Sign": signature(), "X-Time": "now"}, "stale_timestamp"),
    "stamp-huge": (STAMPED, {"X-Sign": signature(), "X-Time": "9" * 400}, "stale_timestamp"),
    "stamp-other-digits": (STAMPED, {"X-Sign": signature(), "X-Time": "١٢٣"}, "stale_timestamp"),
}


@pytest.mark.parametrize(("auth", "headers", "code"), REFUSED.values(), ids=REFUSED.keys())
def test_a_request_that_is_not_authentic_is_refused(auth: Auth, headers: dict[str, str], code: str) -> None:
    with pytest.raises(AuthError) as caught:
        check(auth, headers)
    assert (401, code) == (caught.value.status, caught.value.code)
    assert not any(secret in caught.value.message for secret in SECRETS.values())


@pytest.mark.parametrize(
    ("auth", "expected"), [(NoAuth(), False), (BEARER, False), (BASIC, False), (SIGNED, True)]
)
def test_only_signatures_need_the_body(auth: Auth, expected: bool) -> None:
    assert expected is needs_body(auth)
