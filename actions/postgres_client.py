"""Conversations with a PostgreSQL server: opened, bounded in time, closed, every error named.

The only file that imports the client library: without it the postgres system is off and nothing else.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import asyncpg  # type: ignore[import-untyped]

from actions.postgres_settings import APPLICATION, Place, PostgresSettings
from oncall_agent.contract import ActionError, PermanentError, TransientError
from oncall_agent.contract.secret import resolve

Row = dict[str, Any]
OLDEST = 14
_MAX_TEXT = 300
_MAX_KEPT = 8
_CLOSE_SECONDS = 0.5
_TRANSIENT_CLASSES = ("08", "40", "53", "57", "58", "XX")
_DENIED = ("28000", "28P01")


class Conversation:
    """One open connection; statements take their values as bound parameters only."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @property
    def version(self) -> int:
        """The server's major version."""
        return int(self._connection.get_server_version().major)

    @property
    def is_closed(self) -> bool:
        """Whether the connection is known to be gone."""
        return bool(self._connection.is_closed())

    async def rows(self, statement: str, *values: Any) -> list[Row]:
        """Give all rows; the statement bounds them."""
        return [dict(row) for row in await self._connection.fetch(statement, *values)]

    async def row(self, statement: str, *values: Any) -> Row | None:
        """Give the first row."""
        found = await self._connection.fetchrow(statement, *values)
        return None if found is None else dict(found)

    async def value(self, statement: str, *values: Any) -> Any:
        """Give the first column of the first row."""
        return await self._connection.fetchval(statement, *values)

    async def run(self, statement: str) -> None:
        """Carry out a statement that takes no bound values; its text is made by the server's own quoting."""
        await self._connection.execute(statement)

    async def close(self) -> None:
        """Say goodbye if the server still listens, or hang up."""
        try:
            await self._connection.close(timeout=_CLOSE_SECONDS)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            self.abort()

    def abort(self) -> None:
        """Hang up without a word."""
        self._connection.terminate()


class Postgres:
    """Opens conversations with the operator's credentials.

    Args:
        keeps: hold the connection for the next conversation: a server without free connections lets nobody in.
    """

    def __init__(self, settings: PostgresSettings, *, keeps: bool = False) -> None:
        self.settings, self._keeps = settings, keeps
        self._kept: dict[Place, Conversation] = {}

    @asynccontextmanager
    async def talk(
        self, place: Place, seconds: float, *, application: str = APPLICATION
    ) -> AsyncIterator[Conversation]:
        """Give a conversation that ends after that many seconds, whatever happens.

        Raises:
            TransientError: the server does not answer (in time), is full, or stops.
            PermanentError: it refuses us, is too old, or is no PostgreSQL.
        """
        conversation: Conversation | None = None
        try:
            with named_errors():
                async with asyncio.timeout(max(seconds, 0.05)):
                    conversation = self._take(place) or await self.open(
                        place, seconds, application=application
                    )
                    yield conversation
        except BaseException:
            if conversation is not None:
                conversation.abort()
            raise
        await self._give_back(place, conversation)

    async def open(self, place: Place, seconds: float, *, application: str = APPLICATION) -> Conversation:
        """Connect; the caller closes. Errors are the library's own unless inside `named_errors`."""
        settings = self.settings
        connection = await asyncpg.connect(
            host=place.host,
            port=place.port,
            database=place.database,
            user=settings.user,
            # An empty password, not None: the library would look into files and variables of this process.
            password=resolve(settings.password).reveal() if settings.password else "",
            ssl=_tls(settings),
            timeout=max(seconds, 0.05),
            statement_cache_size=0,
            server_settings=_session_settings(seconds, application),
        )
        conversation = Conversation(connection)
        if conversation.version < OLDEST:
            conversation.abort()
            raise PermanentError(f"PostgreSQL {conversation.version} is not supported: {OLDEST} or newer")
        return conversation

    async def warm(self, place: Place, seconds: float) -> None:
        """Hold a connection ready; silent when there is none to be had now."""
        with suppress(ActionError):
            async with self.talk(place, seconds) as conversation:
                await conversation.value("SELECT 1")

    async def close(self) -> None:
        """Give the kept connections back."""
        kept, self._kept = list(self._kept.values()), {}
        for conversation in kept:
            await conversation.close()

    def _take(self, place: Place) -> Conversation | None:
        kept = self._kept.pop(place, None)
        return None if kept is None or kept.is_closed else kept

    async def _give_back(self, place: Place, conversation: Conversation) -> None:
        has_room = place not in self._kept and len(self._kept) < _MAX_KEPT
        if self._keeps and has_room and not conversation.is_closed:
            self._kept[place] = conversation
        else:
            await conversation.close()


def _session_settings(seconds: float, application: str) -> dict[str, str]:
    # The server gives up by itself as well: a statement must not go on when nobody waits for it.
    limit = f"{int(max(seconds, 0.1) * 1000)}"
    return {
        "application_name": application,
        "statement_timeout": limit,
        "lock_timeout": str(min(5_000, int(limit))),
        "client_connection_check_interval": "1000",
        "jit": "off",
    }


def _tls(settings: PostgresSettings) -> Any:
    if not settings.ca_file or settings.tls not in ("verify-ca", "verify-full"):
        return settings.tls
    context = ssl.create_default_context(cafile=settings.ca_file)
    context.check_hostname = settings.tls == "verify-full"
    return context


@contextmanager
def named_errors() -> Iterator[None]:
    """Turn the library's errors into the contract's; texts of the server are cut and hold no statement."""
    try:
        yield
    except ActionError:
        raise
    except asyncpg.PostgresError as error:
        raise _named(error) from error
    except TimeoutError:
        raise TransientError("PostgreSQL does not answer in time") from None
    except (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        raise TransientError(f"PostgreSQL can't be reached ({type(error).__name__})") from error
    except (ValueError, UnicodeError, asyncio.IncompleteReadError) as error:
        raise PermanentError(f"what answers is no PostgreSQL ({type(error).__name__})") from error


def _named(error: asyncpg.PostgresError) -> ActionError:
    code, text = str(error.sqlstate or ""), str(error).splitlines()[0][:_MAX_TEXT] if str(error) else ""
    if code in _DENIED:
        return PermanentError(f"PostgreSQL refuses the credentials ({code})")
    if code == "42501":
        return PermanentError(f"PostgreSQL: not allowed: {text}")
    if code == "53300":
        return TransientError("PostgreSQL has no connection left")
    if code == "57014":
        return TransientError("PostgreSQL cancelled a statement that took too long")
    if code[:2] in _TRANSIENT_CLASSES or code == "55P03":
        return TransientError(f"PostgreSQL: {text} ({code})")
    return PermanentError(f"PostgreSQL: {text} ({code})")
