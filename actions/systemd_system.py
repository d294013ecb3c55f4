"""systemd as a system: version, who we are on the bus, what polkit permits us, and the rule that is enough."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from fnmatch import translate

from actions.systemd_bus import MANAGER, MANAGER_PATH, Bus, DeniedError
from actions.systemd_drills import FailedUnit, HungUnit, StartLimit
from oncall_agent.contract import Grants, Inspection, PermanentError, Privilege, System, SystemContext
from oncall_agent.models import JsonObject

_OLDEST = 239
PROBE_UNIT = "oncall-agent-probe.service"
"""Does not exist; the generated rule permits restarting it, so that what is permitted can be asked for."""
_FOREIGN_UNIT = "oncall-agent-foreign.service"
"""Does not exist either, and no rule for single units permits it."""
_VERBS = {"systemd.restart_unit": ("restart", "reset-failed"), "systemd.reset_failed": ("reset-failed",)}
_RESTART = "restart the listed units"
_ANY = "restart any unit"
_RULE = """\
// Lets the user of oncall-agent do what its actions need to the listed units, and nothing else.
polkit.addRule(function(action, subject) {{
    var verbs = {verbs};
    var units = [{units}];
    if (action.id == "org.freedesktop.systemd1.manage-units" && subject.user == "oncall-agent"
        && verbs.indexOf(action.lookup("verb")) >= 0
        && units.some(function(unit) {{ return unit.test(action.lookup("unit")); }})) {{
        return polkit.Result.YES;
    }}
}});
"""


class SystemdSystem(System):
    """Inspects through the bus that the actions use."""

    name = "systemd"
    drills = (FailedUnit, StartLimit, HungUnit)

    def __init__(self, settings: JsonObject) -> None:
        super().__init__(settings)
        self._bus = Bus(settings)

    async def __aexit__(self, *_: object) -> None:
        self._bus.close()

    async def inspect(self, ctx: SystemContext, actions: Sequence[str]) -> Inspection:
        """Read the version, our user on the bus, and ask polkit by restarting units that do not exist."""
        seconds = ctx.seconds_left
        version = str((await self._bus.properties(seconds, MANAGER_PATH, MANAGER)).get("Version", ""))
        may_some = await self._may_restart(ctx, PROBE_UNIT)
        may_any = await self._may_restart(ctx, _FOREIGN_UNIT)
        needed_by = tuple(action for action in actions if action == "systemd.restart_unit")
        privileges = (Privilege(_RESTART, may_some or may_any, needed_by), Privilege(_ANY, may_any, ()))
        return Inspection(
            product="systemd",
            version=version,
            unsupported=_unsupported(version),
            identity=await self._identity(ctx),
            privileges=privileges,
        )

    def grants(self, actions: Sequence[str]) -> Grants:
        """Give a polkit rule for the verbs of these actions on the units of the settings."""
        verbs = sorted({verb for action in actions for verb in _VERBS.get(action, ())})
        probe = (PROBE_UNIT,) if "restart" in verbs else ()
        units = ", ".join(_pattern(unit) for unit in (*self._bus.settings.units, *probe))
        return Grants(
            language="text",
            text=_RULE.format(verbs=json.dumps(verbs), units=units),
            how_to_apply=(
                "Save as /etc/polkit-1/rules.d/50-oncall-agent.rules (polkit reads it by itself), run the daemon "
                "as the user oncall-agent, and add that user to the group systemd-journal for the last log lines."
            ),
        )

    async def _may_restart(self, ctx: SystemContext, absent: str) -> bool:
        """Say whether restarting a unit that does not exist fails for that reason, not for want of a permission."""
        try:
            await self._bus.manager(ctx.seconds_left, "RestartUnit", "ss", absent, "fail")
        except DeniedError:
            return False
        except PermanentError:
            return True
        return True

    async def _identity(self, ctx: SystemContext) -> str:
        bus = "org.freedesktop.DBus"
        own = (await self._bus.call(ctx.seconds_left, bus, "/org/freedesktop/DBus", bus, "GetId"))[0]
        name = self._bus.unique_name
        user = await self._bus.call(
            ctx.seconds_left, bus, "/org/freedesktop/DBus", bus, "GetConnectionUnixUser", "s", name
        )
        return f"uid {user[0]} on bus {str(own)[:8]}"


def _pattern(unit: str) -> str:
    """Give a shell pattern as a regular expression literal of JavaScript."""
    body = translate(unit).removeprefix("(?s:").removesuffix(r")\Z")
    return f"/^{body}$/".replace("(?>", "(?:")


def _unsupported(version: str) -> str:
    found = re.match(r"\d+", version)
    if found is None:
        return f"the version {version[:40]!r} is not understood"
    return "" if int(found[0]) >= _OLDEST else f"systemd {found[0]} is older than {_OLDEST}"
