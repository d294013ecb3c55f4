"""The folders of this machine as a system: what we may do there, the rights that the actions need, the drills."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping, Sequence
from pathlib import Path

from actions.filesystem_drills import DRILLS
from actions.fs_settings import FilesystemSettings
from oncall_agent.contract import Grants, Inspection, Privilege, System, SystemContext
from oncall_agent.models import JsonObject

_USER = "oncall-agent"
_PURGE, _COLD, _WARM = "filesystem.purge", "filesystem.move_cold", "filesystem.warm_or_rebuild"
_TRUNCATE, _ROTATE = "filesystem.truncate_log", "filesystem.rotate_logs"
_RELEASE = "filesystem.release_deleted_open"

_WRITES: Mapping[str, tuple[str, ...]] = {
    "roots": (_PURGE, _COLD, _WARM),
    "log_roots": (_TRUNCATE, _ROTATE),
    "cold_roots": (_COLD,),
    "saved_folder": (_TRUNCATE, _ROTATE, _RELEASE, _WARM),
}
"""Setting -> the actions that write there."""

_CAPABILITIES: Mapping[str, tuple[int, tuple[str, ...], str]] = {
    "CAP_DAC_READ_SEARCH": (2, (_TRUNCATE, _ROTATE, _RELEASE), "list what other users' services hold open"),
    "CAP_KILL": (5, (_ROTATE, _RELEASE), "signal services of other users"),
    "CAP_SYS_PTRACE": (19, (_TRUNCATE, _ROTATE, _RELEASE), "look at what other users' services hold open"),
    "CAP_LEASE": (28, (_PURGE, _COLD), "ask whether other users' files are in use"),
}
"""Name -> its number, the actions that need it where folders belong to other users, and what for."""
_MAX_OTHERS = 40


class FilesystemSystem(System):
    """This machine's folders."""

    name = "filesystem"
    drills = DRILLS

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._conf = FilesystemSettings.model_validate(dict(settings))

    async def inspect(self, ctx: SystemContext, actions: Sequence[str]) -> Inspection:
        """Read who we are here and what we may do in each listed folder."""
        privileges = await ctx.run_blocking(self._privileges, tuple(actions))
        host = os.uname()
        return Inspection(
            product=host.sysname,
            version=host.release,
            unsupported="" if host.sysname == "Linux" else "only Linux is supported",
            identity=_name_of(os.geteuid()),
            server_time=ctx.clock.now(),
            privileges=privileges,
        )

    def grants(self, actions: Sequence[str]) -> Grants:
        """Give the access lists of the folders and the capabilities of the service."""
        folders = self._folders(actions)
        needed = [name for name, (_, who, _) in _CAPABILITIES.items() if set(who) & set(actions)]
        return Grants(
            "text",
            "\n".join([*_access(folders), *_service(folders, needed)]) + "\n",
            "Run the commands as root, then put the rest into `systemctl edit oncall-agent` and restart it; "
            "leave the capabilities out where folders and services belong to the agent's own user.",
        )

    def _folders(self, actions: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Give folder -> the chosen actions that write there."""
        found: dict[str, tuple[str, ...]] = {}
        for setting, who in _WRITES.items():
            value = getattr(self._conf, setting) or ()
            for folder in (value,) if isinstance(value, str) else value:
                chosen = [action for action in who if action in actions]
                found[folder] = tuple(dict.fromkeys((*found.get(folder, ()), *chosen)))
        return {folder: who for folder, who in found.items() if who}

    def _privileges(self, actions: tuple[str, ...]) -> tuple[Privilege, ...]:
        folders = self._folders(actions)
        listed = [Privilege(f"write {folder}", _may_write(folder), who) for folder, who in folders.items()]
        if os.geteuid() == 0:
            return (*listed, Privilege("everything (uid 0)", held=True))
        held, wanted = _held_capabilities(), self._wanted(actions)
        for number, name in sorted(_names(held | set(wanted)).items())[:_MAX_OTHERS]:
            listed.append(Privilege(name, number in held, wanted.get(number, ())))
        return tuple(listed)

    def _wanted(self, actions: tuple[str, ...]) -> dict[int, tuple[str, ...]]:
        """Give the capabilities that are needed, since a folder belongs to somebody else."""
        owners = {_owner(folder) for folder in (*self._conf.roots, *self._conf.log_roots)}
        if owners <= {os.geteuid(), None}:
            return {}
        wanted = {
            number: tuple(action for action in who if action in actions)
            for number, who, _ in _CAPABILITIES.values()
        }
        return {number: who for number, who in wanted.items() if who}


def _access(folders: Mapping[str, tuple[str, ...]]) -> list[str]:
    lines = ["# Folders: what is there now, and what will be made there."]
    for folder, who in sorted(folders.items()):
        lines += [f"# {', '.join(who)}", f"setfacl -R -m u:{_USER}:rwX {folder}"]
        lines.append(f"setfacl -R -d -m u:{_USER}:rwX {folder}")
    return lines


def _service(folders: Mapping[str, tuple[str, ...]], needed: Sequence[str]) -> list[str]:
    lines = ["", "# systemctl edit oncall-agent", "[Service]", f"User={_USER}", "ProtectSystem=strict"]
    lines += [f"ReadWritePaths={folder}" for folder in sorted(folders)]
    lines += [f"# {name}: to {_CAPABILITIES[name][2]}" for name in needed]
    return [
        *lines,
        f"AmbientCapabilities={' '.join(needed)}",
        f"CapabilityBoundingSet={' '.join(needed)}",
    ]


def _may_write(folder: str) -> bool:
    return os.access(folder, os.W_OK | os.X_OK | os.R_OK, effective_ids=True)


def _owner(folder: str) -> int | None:
    try:
        return Path(folder).stat().st_uid
    except OSError:
        return None


def _name_of(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} ({uid})"
    except KeyError:
        return str(uid)


def _held_capabilities() -> set[int]:
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("CapEff:"):
            mask = int(line.split()[1], 16)
            return {number for number in range(64) if mask >> number & 1}
    return set()


def _names(numbers: set[int]) -> dict[int, str]:
    known = {number: name for name, (number, _, _) in _CAPABILITIES.items()}
    return {number: known.get(number, f"capability {number}") for number in numbers}
