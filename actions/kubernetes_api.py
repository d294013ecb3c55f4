"""The API servers behind every kubernetes action: one client per context, plain JSON in and out.

The only file that imports the client library: without it the kubernetes system is off and nothing else.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from kubernetes_asyncio import client as library
from kubernetes_asyncio import config as library_config

from actions.kubernetes_settings import KubernetesSettings
from oncall_agent.contract import PermanentError, TransientError
from oncall_agent.contract.secret import resolve
from oncall_agent.errors import ConfigError
from oncall_agent.models import JsonObject

Json = dict[str, Any]
_MAX_BODY_BYTES = 16_777_216
_MAX_TEXT = 300
_MAX_CONNECTIONS = 32
_MERGE = "application/merge-patch+json"
_STRATEGIC = "application/strategic-merge-patch+json"
_JSON_PATCH = "application/json-patch+json"
_BUSY = frozenset({408, 429, 500, 502, 503, 504})
_UNAUTHORIZED, _FORBIDDEN, _MISSING, _CONFLICT, _TOO_MANY = 401, 403, 404, 409, 429


class MissingError(PermanentError):
    """The cluster knows no such object."""


class ForbiddenError(PermanentError):
    """The credentials may not do this."""


class ConflictError(TransientError):
    """The object was changed by somebody else meanwhile."""


class BusyError(TransientError):
    """The server asks to come again later; an eviction that a disruption budget does not allow, too."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API server answered; the body is whole and bounded."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class Clusters:
    """The clients, each opened at its first call.

    `host` + `token`, a kubeconfig with its contexts, or the pod's own account: see `KubernetesSettings`.
    """

    def __init__(self, settings: JsonObject) -> None:
        self.settings = KubernetesSettings.model_validate(dict(settings))
        self._clients: dict[str, Any] = {}
        self._opening = asyncio.Lock()

    async def close(self) -> None:
        """Give the connections back."""
        clients, self._clients = list(self._clients.values()), {}
        for one in clients:
            await one.close()

    async def ask(
        self,
        seconds: float,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: JsonObject | Sequence[JsonObject] | None = None,
        strategic: bool = False,
        context: str = "",
    ) -> Json:
        """Ask once and give the answer's JSON.

        Args:
            seconds: left for the whole of it; a single call never takes longer than `timeout_seconds`.
            body: of a PATCH, a list is a JSON patch, an object a merge patch (strategic when asked for).

        Raises:
            TransientError: no answer (in time), or one that says so; `BusyError` and `ConflictError` of it.
            PermanentError: refused; `MissingError` and `ForbiddenError` of it.
        """
        answer = await self.raw(
            seconds, method, path, query=query, body=body, strategic=strategic, context=context
        )
        try:
            found = orjson.loads(answer.body or b"{}")
        except orjson.JSONDecodeError:
            found = None
        if not isinstance(found, dict):
            raise PermanentError("what answers there is no Kubernetes API server")
        return found

    async def raw(
        self,
        seconds: float,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        strategic: bool = False,
        context: str = "",
    ) -> Answer:
        """Ask once and give the answer as it came; raises as `ask` does."""
        limit = min(max(seconds, 0.05), self.settings.timeout_seconds)
        try:
            async with asyncio.timeout(limit):
                answer = await self._call(method, path, query or {}, body, strategic, context, limit)
        except TimeoutError:
            raise TransientError("the Kubernetes API server does not answer in time") from None
        except (aiohttp.ClientConnectorCertificateError, ssl.SSLError) as error:
            raise PermanentError(
                "the API server's certificate is not signed by the CA that is configured"
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise TransientError(
                f"the Kubernetes API server can't be reached ({type(error).__name__})"
            ) from error
        except library_config.ConfigException as error:
            raise PermanentError(f"the kubeconfig is not usable: {str(error)[:_MAX_TEXT]}") from error
        except ConfigError as error:
            raise PermanentError(error.message) from error
        if answer.status == _UNAUTHORIZED:
            await self._forget(context)
        return _checked(answer)

    async def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Any,
        strategic: bool,
        context: str,
        limit: float,
    ) -> Answer:
        client = await self._client(context)
        headers = {"Accept": "application/json"}
        if method == "PATCH":
            kind = _STRATEGIC if strategic else _MERGE
            headers["Content-Type"] = _JSON_PATCH if isinstance(body, list) else kind
        response = await client.call_api(
            path,
            method,
            query_params=list(query.items()),
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
            _preload_content=False,
            _request_timeout=limit,
        )
        try:
            return Answer(response.status, await _bounded(response), dict(response.headers))
        finally:
            response.release()

    async def _client(self, context: str) -> Any:
        async with self._opening:
            if context not in self._clients:
                self._clients[context] = library.ApiClient(await self._configuration(context))
            return self._clients[context]

    async def _forget(self, context: str) -> None:
        # A kubeconfig's token may have been replaced: the next call reads it anew.
        client = self._clients.pop(context, None)
        if client is not None:
            await client.close()

    async def _configuration(self, context: str) -> Any:
        settings = self.settings
        found = library.Configuration()
        found.connection_pool_maxsize = _MAX_CONNECTIONS
        if settings.host:
            found.host, found.ssl_ca_cert = settings.host, settings.ca_file or None
            # The library calls the hook only where there is a key to refresh.
            self._set_token(found)
            found.refresh_api_key_hook = self._set_token
        elif _is_inside(settings):
            library_config.load_incluster_config(client_configuration=found)  # type: ignore[no-untyped-call]
        else:
            path = _kubeconfig_of(settings)
            wanted = context or settings.context or None
            await library_config.load_kube_config(
                config_file=path, context=wanted, client_configuration=found, persist_config=False
            )
        return found

    def _set_token(self, configuration: Any) -> None:
        if self.settings.token is not None:
            configuration.api_key["BearerToken"] = f"Bearer {resolve(self.settings.token).reveal()}"


def _is_inside(settings: KubernetesSettings) -> bool:
    return not settings.kubeconfig and bool(os.environ.get("KUBERNETES_SERVICE_HOST"))


def _kubeconfig_of(settings: KubernetesSettings) -> str:
    return str(Path(settings.kubeconfig or "~/.kube/config").expanduser())


async def _bounded(response: Any) -> bytes:
    parts, size = [], 0
    while chunk := await response.content.read(65_536):
        size += len(chunk)
        if size > _MAX_BODY_BYTES:
            raise PermanentError(f"the answer is longer than {_MAX_BODY_BYTES} bytes")
        parts.append(chunk)
    return b"".join(parts)


def _checked(answer: Answer) -> Answer:
    status = answer.status
    if status < 300:  # noqa: PLR2004 - the class of success
        return answer
    text = f"Kubernetes ({status}): {_message(answer.body)}"
    if status == _UNAUTHORIZED:
        raise PermanentError("Kubernetes (401): the credentials are not accepted (wrong, expired or revoked)")
    kinds: dict[int, type[PermanentError | TransientError]] = {
        _FORBIDDEN: ForbiddenError,
        _MISSING: MissingError,
        _CONFLICT: ConflictError,
        _TOO_MANY: BusyError,
    }
    raise kinds.get(status, TransientError if status in _BUSY else PermanentError)(text)


def _message(body: bytes) -> str:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return "no reason given"
    message = found.get("message", "") if isinstance(found, dict) else ""
    return str(message)[:_MAX_TEXT]
