"""`actions.md`: what can be done, how health is read, and the settings of the systems behind both."""

from __future__ import annotations

from importlib import import_module

from pydantic import BaseModel

from oncall_agent.contract import SCORECARD, ActionSpec, Prober
from oncall_agent.contract.executor import NoParams
from oncall_agent.registry import find
from reference.text import code, fields_table, first_line, page, table

_FOLDERS = tuple(
    f"actions.fs_settings:{name}" for name in ("FilesystemSettings", "Rotation", "Holder", "Command")
)
SYSTEMS: dict[str, tuple[str, ...]] = {
    "airflow": ("actions.airflow_settings:AirflowSettings",),
    "app": ("actions.app_client:AppSettings", "actions.app_monitoring:Monitoring"),
    "disk": _FOLDERS,
    "docker": ("actions.docker_settings:DockerSettings",),
    "escalate": ("actions.escalate:EscalateSettings",),
    "filesystem": _FOLDERS,
    "http": (
        "actions.http_settings:HttpSettings",
        "actions.http_settings:Endpoint",
        "actions.http_settings:Call",
        "actions.http_settings:Question",
        *(
            f"actions.http_declared:{name}"
            for name in ("Flag", "NginxPool", "HaproxyPool", "EndpointPool", "Cache", "Pipeline")
        ),
        "actions.http_templates:Lookup",
    ),
    "mysql": ("actions.mysql_settings:MySQLSettings", "actions.mysql_settings:VariableBounds"),
    "postgres": ("actions.postgres_settings:PostgresSettings", "actions.postgres_settings:Bounds"),
    "kubernetes": ("actions.kubernetes_settings:KubernetesSettings",),
    "memcached": (
        "actions.memcached_settings:MemcachedSettings",
        "actions.memcached_settings:MemcachedPool",
        "actions.memcached_settings:MemcachedNode",
    ),
    "prometheus": ("actions.probes:ProbeSettings",),
    "swarm": ("actions.swarm_engine:SwarmSettings",),
    "systemd": ("actions.systemd_bus:SystemdSettings",),
    "mongodb": ("actions.mongodb_client:MongoSettings", "actions.mongodb_client:Deployment"),
    "redis": ("actions.redis_client:RedisSettings", "actions.redis_client:RedisServer"),
    "spark": ("actions.spark_settings:SparkSettings", "actions.spark_settings:Submission"),
    "tcp": (),
    "watch": (),
}
"""System -> the models of its group under `backends`; empty when it takes none."""

ADDRESSES = (
    ("`airflow_dag`", "`dag`", "Id of a DAG."),
    ("`airflow_pool`", "`pool`", "Name of a pool."),
    ("`docker_container`", "`container`", "Name or id of the container."),
    ("`docker_engine`", "", "It needs none: the engine is that of `backends.docker.host`."),
    (
        "`http_app`",
        "`url`",
        "Where `/api/v1/status` is, and the base of paths in `http.call` endpoints and `http` probes.",
    ),
    (
        "`http_app`",
        "`control_url`",
        "Where `/deploy`, `/restart` and `/logs` are, if elsewhere. Default: `url`.",
    ),
    ("`directory`", "`root`", "Absolute folder; it must stand in `backends.filesystem.roots` as well."),
    ("`kubernetes_workload`", "`namespace`, `name`", "Where it is, and what it is called."),
    (
        "`kubernetes_workload`",
        "`kind`",
        "`Deployment`, `StatefulSet`, `DaemonSet`, or `Job` for `kubernetes.delete_stuck`. Default: `Deployment`.",
    ),
    ("`kubernetes_node`", "`node`", "Name of the node."),
    (
        "`kubernetes_workload`, `kubernetes_node`",
        "`context`",
        "Another cluster: one of `backends.kubernetes.contexts`.",
    ),
    ("`swarm_service`", "`service`", "Name or id of a service."),
    ("`swarm_node`", "`node`", "Id or host name of a node."),
    ("`systemd_unit`", "`unit`", "Name of a service, such as `shop.service`."),
    ("`mongodb_deployment`", "`deployment`", "Name of a deployment under `backends.mongodb.deployments`."),
    (
        "`mongodb_deployment`",
        "`member`",
        "`host:port` of one of its hosts; default: the one that takes writes.",
    ),
    ("`redis_server`", "`server`", "Name of a server under `backends.redis.servers`."),
    ("`redis_server`", "`database`", "Number of the database there. Default: 0."),
    (
        "`mysql_server`",
        "`host`, `port`",
        "Of another server than `backends.mysql` says; the account is the same.",
    ),
    ("`postgres_database`", "`database`", "Name of the database."),
    (
        "`postgres_database`",
        "`host`, `port`",
        "Of another server than `backends.postgres` says; the credentials are the same.",
    ),
    ("`spark_application`", "`application`", "Name of the application."),
    (
        "`spark_application`",
        "`submission`",
        "Id in `backends.spark.submissions`: what is submitted again. Default: nothing can be.",
    ),
    ("`spark_worker`", "`host`", "Host of workers as the master lists it."),
    ("`memcached_node`", "`pool`, `node`", "Names under `backends.memcached.pools`."),
    ("any", "`host`, `port`", "For the `tcp` probe."),
)

_RISKS = {
    "R0": "touches nothing",
    "R1": "reversible, no data touched",
    "R2": "users may notice",
    "R3": "irreversible or data loss; always asked for, by two people",
}
_INTRO = """
Every action has four steps: precheck, execute, verify, and rollback or the reason why there is none. The scorecard
says which rules of the contract test it passes (`done`), and from which it is exempt and why. `oncall-agent actions
list` prints the same for the machine it runs on.
"""


def load(place: str) -> type[BaseModel]:
    """Import `module:Name`."""
    module, _, name = place.partition(":")
    kind: type[BaseModel] = getattr(import_module(module), name)
    return kind


def own_actions() -> list[ActionSpec]:
    """Give the specs of the actions that come with the project, not those that happen to be installed as well."""
    found = find().actions
    return [kind.spec for _, kind in sorted(found.items()) if kind.__module__.startswith("actions.")]


def own_probers() -> list[type[Prober]]:
    """Give the probers that come with the project."""
    return [kind for _, kind in sorted(find().probers.items()) if kind.__module__.startswith("actions.")]


def _action(spec: ActionSpec) -> str:
    facts = [
        ("works on", code(spec.target_kind)),
        ("risk", f"{spec.risk.value}: {_RISKS[spec.risk.value]}"),
        ("undo", "yes" if spec.reversible else f"no: {spec.irreversible_reason}"),
        ("deadline", f"{spec.deadline_seconds:g} s for execute and verify together"),
        ("cooldown", f"{spec.cooldown_seconds:g} s on one target"),
        ("blast radius", f"{spec.blast_radius} instances"),
        ("cost", f"{spec.cost:g} of the reward"),
        ("contract", _scorecard(spec)),
    ]
    params = "It takes no parameters."
    if spec.params is not NoParams and spec.params.model_fields:
        params = fields_table(spec.params)
    return f"### {spec.id}\n\n{spec.summary}\n\n{table(('', ''), facts)}\n\n{params}"


def _scorecard(spec: ActionSpec) -> str:
    done = [rule for rule in SCORECARD if rule not in spec.exemptions]
    exempt = [f"{rule} exempt ({reason})" for rule, reason in spec.exemptions.items()]
    lack = [f"**not proven on a real server**: {spec.unproven}"] if spec.unproven else []
    return "; ".join([f"done: {', '.join(done)}", *exempt, *lack])


def _prober(kind: type[Prober]) -> str:
    params = fields_table(kind.params) if kind.params.model_fields else "It takes no keys besides `kind`."
    return f"### {kind.kind}\n\n{first_line(kind)}\n\n{params}"


def _system(name: str, places: tuple[str, ...]) -> str:
    if not places:
        return f"### backends.{name}\n\nIt takes no settings."
    parts = []
    for place in places:
        kind = load(place)
        title = "" if place == places[0] else f"**{kind.__name__}**: {first_line(kind)}\n\n"
        anchor = f'<a id="{kind.__name__.lower()}"></a>\n\n' if name != "disk" else ""
        parts.append(f"{anchor}{title}{fields_table(kind)}")
    return f"### backends.{name}\n\n" + "\n\n".join(parts)


def documented_models() -> list[type[BaseModel]]:
    """Give every model of actions and probes whose fields a user writes."""
    kinds: list[type[BaseModel]] = [spec.params for spec in own_actions()]
    kinds += [kind.params for kind in own_probers()]
    kinds += [load(place) for places in SYSTEMS.values() for place in places]
    return list(dict.fromkeys(kinds))


def render() -> str:
    """Give the page."""
    specs = own_actions()
    overview = table(
        ("action", "works on", "risk", "undo", "what it does"),
        (
            (
                f"[{s.id}](#{s.id.replace('.', '')})",
                code(s.target_kind),
                s.risk.value,
                "yes" if s.reversible else "no",
                s.summary,
            )
            for s in specs
        ),
    )
    return page(
        "Actions, probes and their backends",
        _INTRO,
        overview,
        "## Actions",
        *(_action(spec) for spec in specs),
        "## Addresses of targets\n\n" + table(("target kind", "key of `address`", "meaning"), ADDRESSES),
        "## Probes\n\nA probe reads the health of a target without touching it. It stands under `targets[].probes`.",
        *(_prober(kind) for kind in own_probers()),
        "## Settings under `backends`",
        *(_system(name, places) for name, places in sorted(SYSTEMS.items())),
    )
