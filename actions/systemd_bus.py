"""systemd over D-Bus: its settings, one shared connection, and D-Bus errors turned into ours.

The only file that imports dbus-fast: without it the system `systemd` is off and nothing else.
"""

from __future__ import annotations

import asyncio
from typing import Any

from dbus_fast import AuthError, BusType, DBusError, InvalidAddressError, Message, MessageType
from dbus_fast.aio import MessageBus
from pydantic import BaseModel, ConfigDict, Field

from oncall_agent.contract import PermanentError, TransientError
from oncall_agent.models import JsonObject

SYSTEMD = "org.freedesktop.systemd1"
MANAGER = "org.freedesktop.systemd1.Manager"
MANAGER_PATH = "/org/freedesktop/systemd1"
PROPERTIES = "org.freedesktop.DBus.Properties"
_MAX_TEXT = 300
_DENIED = frozenset(
    {
        "org.freedesktop.DBus.Error.AccessDenied",
        "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired",
    }
)
_MISSING = frozenset({"org.freedesktop.systemd1.NoSuchUnit"})
_AWAY = frozenset(
    f"org.freedesktop.DBus.Error.{name}"
    for name in (
        "ServiceUnknown",
        "NameHasNoOwner",
        "NoReply",
        "Timeout",
        "TimedOut",
        "Disconnected",
        "LimitsExceeded",
    )
)


class SystemdSettings(BaseModel):
    """The group `backends.systemd`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    units: tuple[str, ...] = Field(min_length=1, max_length=200)
    """Patterns of the units that may be touched, such as `shop-*.service`; there is no default."""
    bus: str = Field("unix:path=/run/dbus/system_bus_socket", pattern=r"^(unix|tcp):[ -~]{1,250}$")
    """Address of the system bus."""
    protected: tuple[str, ...] = Field((), max_length=200)
    """Further patterns that are never touched, beside D-Bus, SSH, systemd's own units and this daemon's."""
    timeout_seconds: float = Field(5.0, gt=0, le=60)
    """For one call."""
    max_restarts_per_hour: int = Field(5, ge=1, le=1000)
    """A unit that was started more often needs something other than a restart."""
    journal: bool = True
    """Take the unit's last lines from the journal, and count its starts there."""
    journal_directory: str = Field("", pattern=r"^(/[ -~]{0,250})?$")
    """Where the journal lies, when it is not this machine's own."""


class MissingUnitError(PermanentError):
    """There is no such unit."""


class DeniedError(PermanentError):
    """The bus or polkit does not permit it."""


class Bus:
    """One connection, opened at the first call and again after it was lost."""

    def __init__(self, settings: JsonObject) -> None:
        self.settings = SystemdSettings.model_validate(dict(settings))
        self._lock = asyncio.Lock()
        self._connection: MessageBus | None = None

    async def manager(self, seconds: float, member: str, signature: str = "", *body: Any) -> list[Any]:
        """Call a method of systemd's manager object."""
        return await self.call(seconds, SYSTEMD, MANAGER_PATH, MANAGER, member, signature, *body)

    async def properties(self, seconds: float, path: str, interface: str) -> dict[str, Any]:
        """Give all properties of one interface of one object, unwrapped."""
        answer = await self.call(seconds, SYSTEMD, path, PROPERTIES, "GetAll", "s", interface)
        return {name: variant.value for name, variant in answer[0].items()}

    async def call(
        self,
        seconds: float,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        *body: Any,
    ) -> list[Any]:
        """Call a method and give what it answers.

        Raises:
            TransientError: the bus does not answer (in time), or what was asked for is not on it now.
            PermanentError: refused; `MissingUnitError` and `DeniedError` tell the two usual reasons.
        """
        message = Message(
            destination=destination,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=list(body),
        )
        try:
            async with asyncio.timeout(max(0.05, min(seconds, self.settings.timeout_seconds))):
                reply = await (await self._open()).call(message)
        except TimeoutError:
            self.close()
            raise TransientError("the system bus does not answer in time") from None
        except AuthError:
            self.close()
            raise PermanentError("the system bus refuses us") from None
        except InvalidAddressError:
            raise PermanentError("the address of the system bus is not valid") from None
        except (OSError, EOFError, DBusError) as error:
            self.close()
            raise TransientError(f"the system bus can't be reached ({type(error).__name__})") from None
        return _body(reply)

    @property
    def unique_name(self) -> str:
        """Our name on the bus, empty before the first call."""
        return str(self._connection.unique_name or "") if self._connection else ""

    def close(self) -> None:
        """Give the connection up."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()

    async def _open(self) -> MessageBus:
        async with self._lock:
            if self._connection is None or not self._connection.connected:
                self.close()
                fresh = MessageBus(bus_address=self.settings.bus, bus_type=BusType.SYSTEM)
                try:
                    await fresh.connect()
                except BaseException:
                    _drop(fresh)
                    raise
                self._connection = fresh
            return self._connection


def _drop(connection: MessageBus) -> None:
    """Close what was only half open; a client without a socket has nothing to close."""
    try:
        connection.disconnect()
    except (AttributeError, OSError):
        return


def _body(reply: Message | None) -> list[Any]:
    if reply is None:
        raise TransientError("the system bus gave no answer")
    if reply.message_type is not MessageType.ERROR:
        return list(reply.body)
    name, text = str(reply.error_name), str(reply.body[0] if reply.body else "")[:_MAX_TEXT]
    if name in _MISSING:
        raise MissingUnitError(f"systemd: {text}")
    if name in _DENIED:
        raise DeniedError(f"systemd does not permit it: {text}")
    if name in _AWAY:
        raise TransientError(f"systemd does not answer on this bus: {text}")
    raise PermanentError(f"systemd: {text or name}")
