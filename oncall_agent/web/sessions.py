"""Browser sessions that are stored nowhere: a signed cookie, keyed by the token that opened it.

Since the key comes from the token itself, sessions outlive a restart, hold on every replica, and end when
the token is changed or removed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from oncall_agent.contract.clock import Clock

_PARTS = 4
_MAX_CHARS = 512


@dataclass(frozen=True, slots=True)
class Session:
    """What a valid cookie says: whose it is and until when."""

    name: str
    expires_at: float


class Sessions:
    """Makes and reads session cookies and their CSRF tokens."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._process_key = secrets.token_bytes(32)

    def issue(self, name: str, key: bytes, lifetime_seconds: float) -> str:
        """Give a cookie value: name, end, nonce, signature."""
        expires = int(self._clock.now() + lifetime_seconds)
        body = f"{_encode(name)}.{expires}.{secrets.token_hex(8)}"
        return f"{body}.{_sign(key, 'session', body)}"

    def read(self, cookie: str, key_of: Callable[[str], bytes | None]) -> Session | None:
        """Give the session of a cookie, None when it is forged, expired or its token is gone."""
        body, _, signature = cookie.rpartition(".")
        fields = body.split(".")
        if len(cookie) > _MAX_CHARS or len(fields) != _PARTS - 1 or not cookie.isascii():
            return None
        name = _decode(fields[0])
        key = key_of(name) if name is not None else None
        if name is None or key is None or not hmac.compare_digest(signature, _sign(key, "session", body)):
            return None
        expires_at = float(fields[1])
        return Session(name, expires_at) if self._clock.now() < expires_at else None

    def csrf(self, cookie: str, key: bytes) -> str:
        """Give the CSRF token that belongs to a session cookie."""
        return _sign(key, "csrf", cookie)

    def anonymous_csrf(self) -> str:
        """Give the CSRF token of a browser without a session: a foreign page can't read it."""
        return _sign(self._process_key, "csrf", "anonymous")


def _sign(key: bytes, purpose: str, text: str) -> str:
    derived = hashlib.blake2b(key, digest_size=32, person=purpose.encode()).digest()
    return hmac.new(derived, text.encode(), hashlib.sha256).hexdigest()


def _encode(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")


def _decode(text: str) -> str | None:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
    except (binascii.Error, ValueError):
        return None
