"""Whether a webhook request comes from who it says: bearer, basic or HMAC, compared in constant time."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Mapping

from oncall_agent.contract.secret import Secret
from oncall_agent.errors import AuthError
from oncall_agent.settings.model import Auth, BasicAuth, BearerAuth, HmacAuth

_MAX_SIGNATURES = 8
"""Some senders send several while a secret is being changed."""
_MAX_TIMESTAMP_CHARS = 16

Secrets = Callable[[str], Secret]


def needs_body(auth: Auth) -> bool:
    """Whether the body takes part: if not, a request can be refused before it is read."""
    return isinstance(auth, HmacAuth)


def verify(auth: Auth, headers: Mapping[str, str], body: bytes, now: float, secrets: Secrets) -> None:
    """Return if the request is authentic.

    Args:
        auth: what the source's configuration asks for.
        headers: must find names in any case.
        body: as received, before any parsing; unused unless `needs_body`.
        now: epoch seconds, for the replay window.
        secrets: reference -> secret; its errors pass through.

    Raises:
        AuthError: 401 with code `unauthenticated` (nothing presented), `bad_credentials`, `bad_signature` or
            `stale_timestamp`.
    """
    if isinstance(auth, BearerAuth):
        _bearer(auth, headers, secrets)
    elif isinstance(auth, BasicAuth):
        _basic(auth, headers, secrets)
    elif isinstance(auth, HmacAuth):
        _hmac(auth, headers, body, now, secrets)


def _bearer(auth: BearerAuth, headers: Mapping[str, str], secrets: Secrets) -> None:
    presented = _credentials(headers, "bearer")
    if not hmac.compare_digest(_bytes(presented), secrets(auth.token).reveal().encode()):
        raise AuthError("the token is not the right one", code="bad_credentials")


def _basic(auth: BasicAuth, headers: Mapping[str, str], secrets: Secrets) -> None:
    try:
        presented = base64.b64decode(_bytes(_credentials(headers, "basic")), validate=True)
    except binascii.Error:
        raise AuthError("the basic credentials are not base64", code="bad_credentials") from None
    expected = f"{auth.username}:{secrets(auth.password).reveal()}".encode()
    if not hmac.compare_digest(presented, expected):
        raise AuthError("user name or password is not the right one", code="bad_credentials")


def _hmac(auth: HmacAuth, headers: Mapping[str, str], body: bytes, now: float, secrets: Secrets) -> None:
    presented = headers.get(auth.header)
    if not presented:
        raise AuthError(f"the header {auth.header} is needed", code="unauthenticated")
    signed = body
    if auth.timestamp_header is not None:
        timestamp = _timestamp(headers.get(auth.timestamp_header), auth.timestamp_header)
        signed = _bytes(timestamp) + b":" + body
    expected = hmac.new(secrets(auth.secret).reveal().encode(), signed, hashlib.sha256).hexdigest().encode()
    given = [part.strip().rpartition("=")[2].lower() for part in presented.split(",", _MAX_SIGNATURES)]
    matches = [hmac.compare_digest(_bytes(part), expected) for part in given[:_MAX_SIGNATURES]]
    if not any(matches):
        raise AuthError("the signature does not fit the body", code="bad_signature")
    # Only now: the time of a request that is not authentic says nothing.
    if auth.timestamp_header is not None and abs(now - float(timestamp)) > auth.window_seconds:
        raise AuthError("the timestamp is outside the accepted window", code="stale_timestamp")


def _timestamp(value: str | None, header: str) -> str:
    if not value:
        raise AuthError(f"the header {header} is needed", code="unauthenticated")
    if not (value.isascii() and value.isdigit() and len(value) <= _MAX_TIMESTAMP_CHARS):
        raise AuthError(f"the header {header} must be epoch seconds", code="stale_timestamp")
    return value


def _credentials(headers: Mapping[str, str], wanted: str) -> str:
    scheme, _, credentials = (headers.get("Authorization") or "").partition(" ")
    if scheme.lower() != wanted or not credentials:
        raise AuthError(f"{wanted} credentials are needed", code="unauthenticated")
    return credentials.strip()


def _bytes(text: str) -> bytes:
    # Header bytes that are not UTF-8 arrive as surrogates.
    return text.encode("utf-8", "surrogateescape")
