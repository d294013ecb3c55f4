"""Which requests each Spark action sends, and the least-privilege role made from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from actions.spark_settings import SparkSettings
from oncall_agent.contract import Grants

MASTER, SUBMIT, HISTORY = "master_url", "submit_url", "history_url"
Request = tuple[str, str]
"""The setting that holds the server's address, and `METHOD /path`; `{id}` stands for one part of a path."""

READS: tuple[Request, ...] = (
    (MASTER, "GET /"),
    (MASTER, "GET /json/"),
    (MASTER, "GET /app/"),
    (MASTER, "GET /proxy/{id}/api/v1/applications/{id}/{id}"),
)
"""What every action, its diagnostics and the prober read."""
_HISTORY_READS: tuple[Request, ...] = (
    (HISTORY, "GET /api/v1/applications"),
    (HISTORY, "GET /api/v1/applications/{id}/{id}"),
)
_SUBMITS: tuple[Request, ...] = (
    (SUBMIT, "POST /v1/submissions/create"),
    (SUBMIT, "GET /v1/submissions/status/{id}"),
    (MASTER, "GET /proxy/{id}/log/"),
)
_WITHDRAWS: tuple[Request, ...] = ((SUBMIT, "POST /v1/submissions/kill/{id}"),)
_ENDS: tuple[Request, ...] = ((MASTER, "POST /app/kill/"),)
_CHANGES: Mapping[str, tuple[Request, ...]] = {
    "spark.kill_application": (*_ENDS, *_SUBMITS),
    "spark.kill_job_or_stage": (
        *(
            (MASTER, f"{what}/proxy/{{id}}/{part}s/{rest}")
            for part in ("job", "stage")
            for what, rest in (("GET ", ""), ("POST ", f"{part}/kill/"))
        ),
        *_HISTORY_READS,
    ),
    "spark.resubmit": (*_SUBMITS, *_WITHDRAWS),
    "spark.retry_with_resources": (*_SUBMITS, *_WITHDRAWS, *_HISTORY_READS),
    "spark.restart_streaming": (*_ENDS, *_SUBMITS, *_WITHDRAWS, *_HISTORY_READS),
    "spark.decommission_executor_or_worker": ((MASTER, "POST /workers/kill/"),),
}
NOT_NEEDED: tuple[Request, ...] = ((MASTER, "POST /driver/kill/"), (MASTER, "GET /logPage/"))
"""Asked to find out whether more than needed is let through."""
ANYBODY = "POST /v1/submissions/create by anybody"
"""Whoever reaches the submission server may run any program on the cluster, when this is held."""

_PORTS = {MASTER: 18_080, SUBMIT: 18_066, HISTORY: 18_180}
_VERBS = {
    "spark.kill_application": ("create", "delete"),
    "spark.resubmit": ("create", "delete"),
    "spark.retry_with_resources": ("create", "delete"),
    "spark.restart_streaming": ("create", "delete"),
}


def needed(actions: Sequence[str]) -> dict[Request, tuple[str, ...]]:
    """Give request -> the actions that need it, beyond what all of them read."""
    found: dict[Request, tuple[str, ...]] = {}
    for action in actions:
        for request in _CHANGES.get(action, ()):
            found[request] = (*found.get(request, ()), action)
    return found


def grants_for(settings: SparkSettings, actions: Sequence[str]) -> Grants:
    """Give the role of this kind of cluster."""
    kinds = {"standalone": _nginx, "kubernetes": _rbac, "yarn": _queue}
    return kinds[settings.kind](settings, actions)


def _nginx(settings: SparkSettings, actions: Sequence[str]) -> Grants:
    wanted = [*READS, *needed(actions)]
    servers = [(key, url) for key in (MASTER, SUBMIT, HISTORY) if (url := getattr(settings, key))]
    blocks = "\n".join(_server(key, url, [what for at, what in wanted if at == key]) for key, url in servers)
    places = ", ".join(f"{key} to http://127.0.0.1:{_PORTS[key]}" for key, _ in servers)
    return Grants(
        "nginx",
        f"events {{}}\nhttp {{\n{blocks}}}\n",
        f"Run nginx with it on the master's host and set {places}; keep Spark's own ports from this program. Give "
        "the submission server a filter that asks for a token (spark.master.rest.filters), and name the token by "
        "backends.spark.token.",
    )


def _server(key: str, url: str, requests: Sequence[str]) -> str:
    lines = "\n".join(f'    "~^{_pattern(one)}$" 1;' for one in sorted(set(requests)))
    parts = urlsplit(url)
    return f"""  map "$request_method $uri" $is_allowed_{key} {{
    default 0;
{lines}
  }}
  server {{
    listen 127.0.0.1:{_PORTS[key]};
    location / {{
      if ($is_allowed_{key} = 0) {{ return 403; }}
      proxy_pass {parts.scheme}://{parts.netloc};
      proxy_read_timeout 60s;
    }}
  }}
"""


def _pattern(request: str) -> str:
    return request.replace(".", "\\.").replace("{id}", "[^ /]+")


def _rbac(settings: SparkSettings, actions: Sequence[str]) -> Grants:
    changes = sorted({verb for action in actions for verb in _VERBS.get(action, ())})
    verbs = ", ".join(["get", "list", *changes])
    text = f"""apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: oncall-agent-spark, namespace: {settings.namespace}}}
rules:
  - apiGroups: [sparkoperator.k8s.io]
    resources: [sparkapplications]
    verbs: [{verbs}]
"""
    return Grants("yaml", text, "Apply it and bind it to the service account whose token this program uses.")


def _queue(_settings: SparkSettings, _actions: Sequence[str]) -> Grants:
    text = "yarn.acl.enable=true\nyarn.scheduler.capacity.root.<QUEUE>.acl_administer_queue=<USER>\n"
    return Grants("text", text, "Set it in YARN's configuration, for the queue of the applications only.")
