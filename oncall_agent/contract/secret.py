"""Secrets stand in the configuration as references and are read at the moment of use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema

from oncall_agent.errors import ConfigError

SCHEMES = ("env", "file", "credential")
_MAX_BYTES = 65_536


class Secret(str):
    """A secret's text that never shows itself in a repr or a log line; `reveal()` gives it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Secret('***')"

    def reveal(self) -> str:
        """Give the text itself."""
        return str.__str__(self)

    def __format__(self, spec: str) -> str:
        return "***"

    def __str__(self) -> str:
        return "***"


def _checked(reference: str) -> str:
    scheme, _, rest = reference.partition(":")
    if scheme not in SCHEMES or not rest:
        # The text is not repeated: somebody may have pasted the secret itself.
        raise ValueError("a secret stands by reference only: env:NAME, file:/path or credential:NAME")
    return reference


SecretRef = Annotated[
    str,
    AfterValidator(_checked),
    WithJsonSchema({"type": "string", "pattern": f"^({'|'.join(SCHEMES)}):.+$"}),
]
"""Text of the form `env:NAME`, `file:/path` or `credential:NAME` (a systemd credential)."""


def resolve(reference: str) -> Secret:
    """Read the secret that a reference names.

    Raises:
        ConfigError: it is not there, is empty, or is not readable; the message names the reference only.
    """
    scheme, _, rest = _checked(reference).partition(":")
    if scheme == "env":
        text = os.environ.get(rest, "")
    else:
        base = (
            Path(os.environ.get("CREDENTIALS_DIRECTORY", "/run/credentials"))
            if scheme == "credential"
            else None
        )
        path = base / Path(rest).name if base else Path(rest)
        try:
            with path.open("rb") as stream:
                text = stream.read(_MAX_BYTES).decode().rstrip("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the secret {reference} can't be read: {type(error).__name__}") from error
    if not text:
        raise ConfigError(f"the secret {reference} is empty or not set")
    return remember(Secret(text))


_seen: dict[str, None] = {}
_MAX_SEEN = 1024
_SHORTEST = 4


def remember(secret: Secret) -> Secret:
    """Note a secret that was read, so that `redact` takes it out of whatever is said later."""
    text = secret.reveal()
    if len(text) >= _SHORTEST and len(_seen) < _MAX_SEEN:
        _seen[text] = None
    return secret


def redact(text: str) -> str:
    """Replace every secret read so far by `***`; the last border before a log, a ledger or an error."""
    for secret in _seen:
        if secret in text:
            text = text.replace(secret, "***")
    return text
