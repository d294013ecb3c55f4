"""Calls to a Docker engine as rules: for a proxy in front of its socket, and to ask what we may do.

An engine has no roles of its own: whoever may open its socket is root on the host. A proxy that lets exactly the
needed calls through makes a role of it. Here such rules become the configuration of nginx, and the question
whether a call is let through: every rule has one that changes nothing whatever the engine answers, because it
names a thing that does not exist or an argument that can't be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actions.docker_engine import Api
from oncall_agent.contract import Grants, Privilege

NOBODY = "oncall-agent-can-i"
NAME = "[A-Za-z0-9][A-Za-z0-9_.-]*"
REFERENCE = "[A-Za-z0-9][A-Za-z0-9_.:/@-]*"
BAD_FILTERS = {"filters": "unreadable"}
_FORBIDDEN = 403
_VERSION = r"(/v1\.[0-9]+)?"


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """One kind of call.

    Attributes:
        path: regular expression of the path after the version.
        ask: path of the harmless call that tells whether this one is let through.
        params: query of that call.
        body: JSON of that call.
        query: regular expression of the whole query that is let through.
    """

    name: str
    method: str
    path: str
    ask: str
    params: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    query: str = ".*"


Needs = Mapping[str, Sequence[Rule]]


def users_of(actions: Iterable[str], needs: Needs, always: Sequence[Rule]) -> dict[Rule, tuple[str, ...]]:
    """Give every rule that some of these actions need, with them; `always` is needed by all."""
    wanted = sorted(set(actions) & set(needs))
    found: dict[Rule, list[str]] = {rule: list(wanted) for rule in always}
    for action in wanted:
        for rule in needs[action]:
            found.setdefault(rule, []).append(action)
    return {rule: tuple(dict.fromkeys(users)) for rule, users in found.items()}


def privileges(
    api: Api, actions: Iterable[str], needs: Needs, always: Sequence[Rule], excess: Sequence[Rule]
) -> tuple[Privilege, ...]:
    """Ask for every call that any action makes, and for some that none does. Blocking; changes nothing."""
    users = users_of(actions, needs, always)
    rules = dict.fromkeys([*always, *(rule for some in needs.values() for rule in some), *excess])
    return tuple(Privilege(_named(rule), _is_let_through(api, rule), users.get(rule, ())) for rule in rules)


def nginx_rules(
    actions: Iterable[str], needs: Needs, always: Sequence[Rule], *, system: str, upstream: str, warning: str
) -> Grants:
    """Give the configuration of an nginx that lets exactly the calls of these actions through."""
    users = users_of(actions, needs, always)
    lines = [
        f'    "~^{rule.method} {_VERSION}{rule.path} {rule.query}$" 1;  # {rule.name}'
        for rule in sorted(users, key=lambda rule: (rule.method, rule.path))
    ]
    text = _NGINX.format(
        lines="\n".join(lines),
        name=system,
        upstream=upstream,
        actions=" ".join(sorted(set(actions) & set(needs))),
    )
    how = (
        f"Put it into /etc/nginx/conf.d/ of an nginx whose user may open {upstream}; make the folder "
        f"/run/oncall-agent-{system} with access for that user and the agent's group only; set "
        f"backends.{system}.host to unix:///run/oncall-agent-{system}/docker.sock; the agent's own user must "
        f"not be in the group docker. {warning}"
    )
    return Grants("text", text, how.strip())


def _named(rule: Rule) -> str:
    return f"{rule.method} {rule.name}"


def _is_let_through(api: Api, rule: Rule) -> bool:
    answer = api.request(
        rule.method,
        f"{api.base_url}/v{api.api_version}{rule.ask}",
        params=dict(rule.params),
        json=None if rule.body is None else dict(rule.body),
        timeout=api.timeout,
        stream=True,
    )
    answer.close()
    return bool(answer.status_code != _FORBIDDEN)


_NGINX = r"""# What oncall-agent needs of the engine for: {actions}
# Method, path and query of a call that is let through; everything else is answered with 403.
map "$request_method $uri $args" $oncall_agent_{name}_may {{
    default 0;
{lines}
}}
# A path that reads differently for nginx and for the engine.
map $request_uri $oncall_agent_{name}_odd {{
    default 0;
    "~^[^?]*(%(?!40|3A)|\.\.|//)" 1;
}}
server {{
    listen unix:/run/oncall-agent-{name}/docker.sock;
    client_max_body_size 256k;
    access_log off;
    if ($oncall_agent_{name}_odd) {{ return 403; }}
    if ($oncall_agent_{name}_may = 0) {{ return 403; }}
    location / {{
        proxy_pass http://unix:{upstream}:;
        proxy_http_version 1.1;
        proxy_set_header Host docker;
        proxy_set_header Connection "";
        proxy_buffering off;
        proxy_read_timeout 300s;
    }}
}}
"""
