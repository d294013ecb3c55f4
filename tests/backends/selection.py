"""Which backends this run has, which it insists on, and why one is missing. Plain reading of variables."""

from collections.abc import Mapping

from backends.base import ABOUT_PREFIX
from backends.catalogue import ALL, NAMES
from backends.provision import MISSING_PREFIX, NOT_PROVISIONED

REQUIRE_VARIABLE = "ONCALL_REQUIRE_BACKENDS"
VARIABLES = {backend.name: backend.variables for backend in ALL}


def missing_reason(name: str, environ: Mapping[str, str]) -> str | None:
    """None when the backend is real in this run, else why it is not."""
    if name not in VARIABLES:
        raise ValueError(f"unknown backend {name!r}; known: {', '.join(NAMES)}")
    if all(environ.get(variable) for variable in VARIABLES[name]):
        return None
    return environ.get(MISSING_PREFIX + name.upper(), NOT_PROVISIONED)


def required(environ: Mapping[str, str]) -> frozenset[str]:
    """The backends that must be real: `all`, a comma list, or none; ValueError names an unknown one."""
    asked = environ.get(REQUIRE_VARIABLE, "").replace(" ", "")
    if asked == "all":
        return frozenset(NAMES)
    names = frozenset(name for name in asked.split(",") if name)
    unknown = names - set(NAMES)
    if unknown:
        raise ValueError(
            f"{REQUIRE_VARIABLE}: unknown {', '.join(sorted(unknown))}; known: all, {', '.join(NAMES)}"
        )
    return names


def about(name: str, environ: Mapping[str, str]) -> str:
    """What a real backend is, in a few words (version, whose)."""
    return environ.get(ABOUT_PREFIX + name.upper(), "")
