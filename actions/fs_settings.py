"""What the operator declares under `backends.filesystem`: where, by whom and with what something may be done."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


def _absolute(path: str) -> str:
    if not Path(path).is_absolute() or Path(path) == Path("/") or ".." in Path(path).parts:
        raise ValueError(f"{path!r} is not an absolute path below /")
    return path


AbsolutePath = Annotated[str, Field(min_length=2, max_length=4_096), AfterValidator(_absolute)]
SignalName = Literal["HUP", "USR1", "USR2", "TERM"]
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Rotation(_Group):
    """One logrotate configuration that may be forced."""

    config: AbsolutePath
    """File for logrotate; neither it nor its folder may be writable by others than its owner."""
    state: AbsolutePath
    """logrotate's own memory of when it last rotated."""


class Holder(_Group):
    """A service that may be told to let go of deleted files. Exactly one of the first three names it."""

    pid_file: AbsolutePath | None = None
    """Holds the number of its main process."""
    unit: str | None = Field(None, pattern=r"^[A-Za-z0-9@:._\\-]{1,200}\.service$")
    """systemd unit whose processes it is."""
    program: AbsolutePath | None = None
    """Real path of the program that its processes run."""
    signals: tuple[SignalName, ...] = ("HUP",)
    """Which signals it may be sent; it must come through them: reopen its files, or be started anew."""

    @model_validator(mode="after")
    def _is_one_service(self) -> Holder:
        if sum(one is not None for one in (self.pid_file, self.unit, self.program)) != 1:
            raise ValueError("exactly one of pid_file, unit and program names a holder")
        return self


class Command(_Group):
    """A program that fills a folder again. It gets no shell and nothing from alerts."""

    argv: tuple[Annotated[str, Field(max_length=4_096)], ...] = Field(min_length=1, max_length=64)
    """The program by its absolute path, then its arguments as they are."""
    environment: dict[Annotated[str, Field(pattern=r"^[A-Z_][A-Z0-9_]{0,63}$")], str] = {}
    """All of its environment but PATH; nothing secret."""
    timeout_seconds: float = Field(60.0, gt=0, le=3_600)
    """Then it is killed with everything that it started."""
    max_load: float = Field(1.5, gt=0, le=100)
    """Load per processor over the last minute above which it is not started."""
    repeatable: bool = False
    """It may be run again when it is not known how a former run ended."""

    @model_validator(mode="after")
    def _is_absolute(self) -> Command:
        _absolute(self.argv[0])
        return self


class FilesystemSettings(_Group):
    """The groups `backends.filesystem` and `backends.disk`."""

    roots: tuple[AbsolutePath, ...] = ()
    """Absolute folders that may be cleaned, moved or filled; nothing outside them is ever touched."""
    log_roots: tuple[AbsolutePath, ...] = ()
    """Absolute folders with logs that may be truncated, rotated or let go of."""
    cold_roots: tuple[AbsolutePath, ...] = ()
    """Absolute folders on another filesystem that cold files may be moved to."""
    rotations: dict[Id, Rotation] = {}
    """Name -> logrotate configuration; runbooks give the name."""
    holders: dict[Id, Holder] = {}
    """Name -> service that may be signalled; runbooks give the name."""
    commands: dict[Id, Command] = {}
    """Name -> program that fills a folder; runbooks give the name."""
    logrotate: AbsolutePath = "/usr/sbin/logrotate"
    """The program."""
    saved_folder: AbsolutePath | None = None
    """Where attempts on logs keep what they need to be taken back; the default is within the log's own root,
    which helps nobody when that filesystem is full."""
    quarantine_seconds: float = Field(3_600.0, ge=60, le=2_592_000)
    """How long removed files can be restored."""
    min_age_seconds: float = Field(300.0, ge=0)
    """No younger file is removed, whatever the parameters say."""
    emergency_free: float = Field(0.02, ge=0, lt=1)
    """Below this free fraction of the filesystem the quarantine is emptied before its time."""

    @property
    def kept_in(self) -> tuple[str, ...]:
        """Every folder that may hold a quarantine."""
        saved = (self.saved_folder,) if self.saved_folder else ()
        return tuple(dict.fromkeys((*self.roots, *self.log_roots, *self.cold_roots, *saved)))
