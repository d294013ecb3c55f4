"""Reading the configuration: what is found, where it is said to stand, and that nothing else ever escapes."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from oncall_agent.errors import ConfigError
from oncall_agent.settings.document import MAX_BYTES
from oncall_agent.settings.load import ConfigErrors, Loaded, load
from oncall_agent.settings.problems import MAX_REPORTED


def _load(folder: Path, text: str | bytes, environ: dict[str, str] | None = None, **runbooks: str) -> Loaded:
    path = folder / "main.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    if runbooks:
        (folder / "runbooks").mkdir(exist_ok=True)
    for name, written in runbooks.items():
        (folder / "runbooks" / f"{name}.yaml").write_text(written)
    return load(path, environ or {})


def _errors(
    folder: Path, text: str | bytes, environ: dict[str, str] | None = None, **runbooks: str
) -> list[str]:
    with pytest.raises(ConfigErrors) as raised:
        _load(folder, text, environ, **runbooks)
    assert [str(error) for error in raised.value.errors] == str(raised.value).splitlines()
    return [str(error).replace(f"{folder}/", "") for error in raised.value.errors]


FINDINGS: dict[str, tuple[str, str]] = {
    "unknown key": ("server:\n  prot: 1", "main.yaml:2: server.prot: unknown key, did you mean 'port'?"),
    "unknown group": ("serverr:\n  port: 1", "main.yaml:1: serverr: unknown key, did you mean 'server'?"),
    "unknown key of a rule": (
        "autonomy:\n  rules:\n  - levl: auto\n    level: auto",
        "main.yaml:3: autonomy.rules[0].levl: unknown key, did you mean 'level'?",
    ),
    "unknown key of a source": (
        "sources:\n  am:\n    kind: alertmanager\n    auht: {}",
        "main.yaml:4: sources.am.auht: unknown key, did you mean 'auth'?",
    ),
    "nothing similar": ("zzz: 1", "main.yaml:1: zzz: unknown key"),
    "wrong type": ("server:\n\n  port: many", "main.yaml:3: server.port: should be a valid integer, unable to parse string as an integer"),
    "out of range": ("server:\n  port: 70000", "main.yaml:2: server.port: should be less than or equal to 65535"),
    "required": ("targets:\n- name: web", "main.yaml:2: targets[0].kind: is required"),
    "group left empty": ("guard:\n", "main.yaml:1: guard: a mapping is expected"),
    "text for a list": ("targets: web", "main.yaml:1: targets: a list is expected"),
    "number for text": (
        "targets:\n- name: web\n  kind: x\n  match:\n    port: 80",
        "main.yaml:5: targets[0].match.port: text is expected: put it in quotes",
    ),
    "two targets of one name": (
        "targets:\n- {name: web, kind: x}\n- {name: web, kind: y}",
        "main.yaml:3: targets[1].name: another target has the name 'web'",
    ),
    "pattern for a target": (
        "targets:\n- name: web\n  kind: x\n  match: {a: '~b'}",
        "main.yaml:4: targets[0].match.a: targets are found by equal values, patterns are not possible",
    ),
    "unknown kind of source": (
        "sources:\n  am:\n    kind: pigeon",
        "main.yaml:3: sources.am.kind: should be one of 'alertmanager', 'generic'",
    ),
    "bad JMESPath": (
        "sources:\n  g:\n    kind: generic\n    mapping:\n      name: '[['",
        "main.yaml:5: sources.g.mapping.name: not a JMESPath expression: IncompleteExpressionError",
    ),
    "half a weekly window": (
        "guard:\n  freeze_windows:\n  - name: a\n    days: [fri]\n    start: 17:00",
        "main.yaml:3: guard.freeze_windows[0]: a weekly window needs days, start and end: end missing",
    ),
    "unknown time zone": (
        "guard:\n  freeze_windows:\n  - name: a\n    starts_at: 1\n    ends_at: 2\n    timezone: Mars/Base",
        "main.yaml:6: guard.freeze_windows[0].timezone: unknown timezone 'Mars/Base', an IANA name such as Europe/Berlin is needed",
    ),
    "date without time": (
        "guard:\n  freeze_windows:\n  - name: a\n    starts_at: 2026-12-24\n    ends_at: 2026-12-27T00:00:00Z",
        "main.yaml:4: guard.freeze_windows[0].starts_at: an offset is needed, such as the Z in 2026-12-24T18:00:00Z",
    ),
    "list for a date": (
        "guard:\n  freeze_windows:\n  - name: a\n    starts_at: [1]\n    ends_at: 2",
        "main.yaml:4: guard.freeze_windows[0].starts_at: should be a valid number",
    ),
    "storm thresholds crossed": (
        "guard:\n  storm: {reversible_only_at: 200}",
        "main.yaml:2: guard.storm: reversible_only_at (200) is above stop_at (100)",
    ),
    "open door": (
        "server:\n  port: 1\n  host: 0.0.0.0",
        "main.yaml:3: server.host: server.host '0.0.0.0' is not loopback: server.tokens is needed",
    ),
    "unknown database": ("store:\n  url: mysql://x", "main.yaml:2: store.url: should begin with sqlite:/// or postgresql+psycopg2://"),
    "key twice": ("server:\n  port: 1\n  port: 2", "main.yaml:3: server.port: the key stands twice, first in line 2"),
    "group twice": ("server: {}\nstore: {}\nserver: {}", "main.yaml:3: server: the key stands twice, first in line 1"),
    "tab": ("server:\n\tport: 1", "main.yaml:2: indented by a tab: YAML takes spaces only"),
    "list at the top": ("- 1", "main.yaml:1: a mapping is expected at the top; {} takes every default"),
    "text at the top": ("hello", "main.yaml:1: a mapping is expected at the top; {} takes every default"),
    "nothing in it": ("# only words\n", "main.yaml:1: the file is empty"),
    "two documents": ("server: {}\n---\nstore: {}", "main.yaml:2: a second document begins: one file holds one document"),
    "tag": ("server:\n  port: !!python/object:os.system 1", "main.yaml:2: tags are not supported"),
    "tag on a group": ("server: !env\n  port: 1", "main.yaml:1: tags are not supported"),
    "list as key": ("server:\n  ? [a]\n  : 1", "main.yaml:2: a key must be text"),
    "anchor in itself": ("server: &a\n  port: *a", "main.yaml:2: an alias of an anchor that is not there or not complete"),
    "merge of text": ("server:\n  <<: text", "main.yaml:2: server: << takes a mapping or a list of mappings"),
    "control character": ("server:\n  host: \x07", "main.yaml:2: the control character U+0007 is not allowed"),
    "folder of runbooks missing": ("\nrunbooks: nowhere", "main.yaml:2: runbooks: the folder can't be read: No such file or directory"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), FINDINGS.values(), ids=FINDINGS.keys())
def test_an_error_names_file_line_key_and_reason(tmp_path: Path, text: str, expected: str) -> None:
    assert [expected] == _errors(tmp_path, text)


def test_what_is_not_yaml_is_named_by_line(tmp_path: Path) -> None:
    (found,) = _errors(tmp_path, "server: {}\nstore: [1")
    assert found.startswith("main.yaml:2: not YAML: ")


RUNBOOKS: dict[str, tuple[str, list[str]]] = {
    "bad pattern": (
        "- name: a\n  class: b\n  match:\n    alertname: '~['",
        ["4: [0].match.alertname: not a regular expression: unterminated character set at position 0"],
    ),
    "pattern too long": (
        f"- name: a\n  class: b\n  match:\n    alertname: '~{'x' * 513}'",
        ["4: [0].match.alertname: the regular expression has 513 characters, at most 512 are allowed"],
    ),
    "unknown target": (
        "- name: a\n  class: b\n  match: {x: y}\n  candidates:\n  - {action: x.y, target: wbe}",
        ["5: [0].candidates[0].target: no target of that name, did you mean 'web'?"],
    ),
    "class of an override's form": (
        "- name: a\n  class: b/c\n  match: {x: y}",
        ["2: [0].class: / and * are not allowed in the name of a class: overrides are written class/action/target"],
    ),
    "name twice": (
        "- {name: a, class: b, match: {x: y}}\n- {name: a, class: b, match: {x: y}}",
        ["2: [1].name: another runbook has the name 'a': runbooks/r.yaml:1"],
    ),
    "under a key": (
        "runbooks:\n- name: a\n  clas: b\n  class: b\n  match: {x: y}\nmore: 1",
        ["3: runbooks[0].clas: unknown key, did you mean 'class'?", "6: more: unknown key"],
    ),
    "no list": ("name: a", ["1: runbooks: a list of runbooks is expected, or a mapping with the key 'runbooks'", "1: name: unknown key"]),
    "empty": ("", ["1: the file is empty"]),
    "text in the list": ("- a", ["1: [0]: a mapping is expected"]),
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), RUNBOOKS.values(), ids=RUNBOOKS.keys())
def test_an_error_in_a_runbook_names_its_file(tmp_path: Path, text: str, expected: list[str]) -> None:
    found = _errors(tmp_path, "targets: [{name: web, kind: x}]", r=text)
    assert sorted(f"runbooks/r.yaml:{line}" for line in expected) == sorted(found)


def test_all_errors_of_all_files_come_at_once(tmp_path: Path) -> None:
    found = _errors(
        tmp_path,
        "server: {port: x}\nstore: {url: y}\ntargets: [{name: web}]",
        {"ONCALL_AGENT__POLICY__NOISE_SCALE": "loud"},
        a="- {name: a}",
        b="- {name: a, class: b, match: {x: '~('}}",
    )
    places = [line.split(": ")[0] for line in found]
    files = [
        "main.yaml:1",
        "main.yaml:2",
        "main.yaml:3",
        "runbooks/a.yaml:1",
        "runbooks/a.yaml:1",
        "runbooks/b.yaml:1",
    ]
    assert ["environment variable ONCALL_AGENT__POLICY__NOISE_SCALE", *files] == sorted(places)


def test_many_errors_are_counted_rather_than_listed(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors) as raised:
        _load(tmp_path, "".join(f"zz{number}: 1\n" for number in range(MAX_REPORTED + 5)))
    assert str(raised.value).splitlines()[-1] == "and 5 more"
    assert len(raised.value.errors) == MAX_REPORTED + 5


SECRET = "hunter2-correct-horse"
PASTED: dict[str, tuple[str, dict[str, str]]] = {
    "token of a person": (f"server: {{tokens: [{{name: ann, secret: {SECRET}}}]}}", {}),
    "token of a source": (
        f"sources: {{am: {{kind: alertmanager, auth: {{kind: bearer, token: {SECRET}}}}}}}",
        {},
    ),
    "instead of the group": (f"sources: {{am: {{kind: alertmanager, auth: {SECRET}}}}}", {}),
    "in a list": (f"telemetry: {{deadman_url: [{SECRET}]}}", {}),
    "after a scheme that is none": (f"telemetry: {{deadman_url: 'https://x/{SECRET}'}}", {}),
    "in the database's URL": (f"store: {{url: 'mysql://u:{SECRET}@h/d'}}", {}),
    "in text that is not YAML": (f"telemetry: {{deadman_url: {SECRET}", {}),
    "in a variable": ("{}", {"ONCALL_AGENT__TELEMETRY__DEADMAN_URL": SECRET}),
    "in a variable that is not JSON": ("{}", {"ONCALL_AGENT__SERVER__TOKENS": f'[{{"secret": "{SECRET}"'}),
    "in a variable of another type": ("{}", {"ONCALL_AGENT__SERVER": SECRET}),
}


@pytest.mark.parametrize(("text", "environ"), PASTED.values(), ids=PASTED.keys())
def test_a_pasted_secret_is_never_repeated(tmp_path: Path, text: str, environ: dict[str, str]) -> None:
    with pytest.raises(ConfigErrors) as raised:
        _load(tmp_path, text, environ)
    assert SECRET not in str(raised.value)
    assert SECRET not in repr(raised.value)
    assert all(SECRET not in str(error) for error in raised.value.errors)


def test_defaults_follow_from_other_keys(tmp_path: Path) -> None:
    loaded = _load(
        tmp_path,
        "targets: [{name: web, kind: x, service: shop}, {name: db, kind: y, probes: [{kind: p, url: /}]}]",
    )
    assert (loaded.targets["web"].service, loaded.targets["db"].service) == ("shop", "db")
    assert loaded.targets["db"].probes[0].params == {"url": "/"}
    assert ((), loaded.settings.autonomy.default) == (loaded.runbooks, "shadow")


def test_text_stays_the_text_that_was_written(tmp_path: Path) -> None:
    """YAML 1.1 would make these a number of seconds, a boolean, a date and an octal number."""
    written = "targets: [{name: web, kind: x, address: {a: 17:00, b: no, c: 2026-12-24, d: 0755, e: 1_000, f: 0x1F, g: 1e3, h: '5'}}]"
    address = _load(tmp_path, written).targets["web"].address
    assert address == {
        "a": "17:00",
        "b": "no",
        "c": "2026-12-24",
        "d": 755,
        "e": "1_000",
        "f": 31,
        "g": 1000.0,
        "h": "5",
    }


def test_anchors_and_merges_save_repetition(tmp_path: Path) -> None:
    loaded = _load(
        tmp_path,
        "targets:\n"
        "- &web {name: web, kind: x, tier: 1, labels: &l {zone: a}}\n"
        "- {<<: *web, name: db, tier: 2}\n"
        "- {<<: [*web, {settle_seconds: 7}], name: c, labels: *l}\n",
    )
    assert [(t.name, t.tier, t.settle_seconds) for t in loaded.targets.values()] == [
        ("web", 1, 30.0),
        ("db", 2, 30.0),
        ("c", 1, 7.0),
    ]
    assert loaded.targets["c"].labels == {"zone": "a"}


def test_runbooks_come_in_the_order_of_file_names(tmp_path: Path) -> None:
    one, two = "- {name: %s, class: b, match: {x: y}}", "runbooks:\n- {name: %s, class: b, match: {x: y}}\n"
    loaded = _load(
        tmp_path, "{}", b=one % "third", a=two % "first" + "- {name: second, class: b, match: {x: y}}"
    )
    assert [runbook.name for runbook in loaded.runbooks] == ["first", "second", "third"]


def test_other_files_in_the_folder_of_runbooks_are_not_passed_over_in_silence(tmp_path: Path) -> None:
    (tmp_path / "runbooks").mkdir()
    (tmp_path / "runbooks" / ".editor.yaml").write_text("half written")
    (tmp_path / "runbooks" / "notes.txt").write_text("words")
    assert _load(tmp_path, "{}").runbooks == ()
    (tmp_path / "runbooks" / "more.yml").write_text("[]")
    assert _errors(tmp_path, "{}") == ["runbooks/more.yml: is not read: runbook files end in .yaml"]


UNREADABLE = {
    "not there": ("missing.yaml", "missing.yaml: can't be read: No such file or directory"),
    "a directory": ("folder", "folder: can't be read: a directory"),
    "not a regular file": ("/dev/zero", "/dev/zero: can't be read: not a regular file"),
    "a name that can't be": ("x\0y", "can't be read: "),
}


@pytest.mark.parametrize(("name", "expected"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, name: str, expected: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigErrors) as raised:
        load(tmp_path / name, {})
    assert expected in str(raised.value)


BOMBS = {
    "aliases of aliases": "a0: &a0 [x]\n"
    + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)),
    "aliases nested deeply": "a0: &a0 [x]\n"
    + "".join(f"a{n}: &a{n} {'[' * 30}*a{n - 1}{']' * 30}\n" for n in range(1, 40)),
    "merges of merges": "a0: &a0 {k: 1}\n"
    + "".join(f"a{n}: &a{n} {{k{n}: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12)),
    "deep lists": "[" * 100_000,
    "deep mappings": "{a: " * 100_000,
    "deep blocks": "".join(f"{' ' * n}a:\n" for n in range(1_000)),
    "too large": "#" * (MAX_BYTES + 1),
    "many values": "- " * 300_000,
    "a long number": f"server: {{port: {'9' * 100_000}}}",
    "not UTF-8": b"server:\n  host: \xff\xfe",
    "UTF-16": "server: {}".encode("utf-16"),
    "a NUL": "server: \0",
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("content", BOMBS.values(), ids=BOMBS.keys())
def test_hostile_text_is_an_error_and_quickly_so(tmp_path: Path, content: str | bytes) -> None:
    found = _errors(tmp_path, content)
    assert len(found) <= MAX_REPORTED
    assert all(len(line) < 600 for line in found)


def test_bytes_that_are_not_text_are_named_by_line(tmp_path: Path) -> None:
    assert _errors(tmp_path, b"server:\n  host: \xff\xfe") == ["main.yaml:2: not UTF-8 text"]


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    assert _load(tmp_path, "\ufeffserver: {port: 1}".encode()).settings.server.port == 1


def test_the_group_of_errors_is_one_configuration_error() -> None:
    errors = ConfigErrors([ConfigError("b", file="f", line=2), ConfigError("a", file="f", line=1)])
    assert isinstance(errors, ConfigError)
    assert str(errors).splitlines() == ["f:1: a", "f:2: b"]


_YAML_LIKE = st.text(alphabet=st.sampled_from(list("ab:-[]{}&*!|>'\"#%@`,?<~ \n\t0.")), max_size=80)
_ANY = (
    st.binary(max_size=200)
    | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass"))
    | _YAML_LIKE.map(str.encode)
)
_KEYS = st.sampled_from(
    [
        "server",
        "port",
        "sources",
        "kind",
        "auth",
        "guard",
        "freeze_windows",
        "name",
        "start",
        "targets",
        "match",
        "runbooks",
        "autonomy",
        "rules",
        "x",
    ]
)
_NESTED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["generic", "none", "bearer"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


def _refusals(
    content: bytes, runbook: bytes = b"[]", environ: dict[str, str] | None = None
) -> list[ConfigError]:
    """What is wrong with it, nothing if it can be used; anything but configuration errors escapes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "main.yaml"
        path.write_bytes(content)
        (Path(folder) / "runbooks").mkdir()
        (Path(folder) / "runbooks" / "r.yaml").write_bytes(runbook)
        try:
            load(path, environ or {})
        except ConfigErrors as errors:
            return list(errors.errors) or [errors]
        return []


def _are_explained(refusals: list[ConfigError]) -> bool:
    return all(type(error) is ConfigError and error.file and error.reason for error in refusals)


_relaxed = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=150)


@_relaxed
@given(_ANY)
@example(b"? a")
@example(b"&a : *a")
@example(b"<<: *a")
@example(b"- - -\n- -")
def test_any_bytes_are_understood_or_refused_with_file_and_reason(content: bytes) -> None:
    assert _are_explained(_refusals(content))
    assert _are_explained(_refusals(b"{}", content))


@_relaxed
@given(_NESTED)
def test_any_values_are_understood_or_refused_with_file_and_reason(value: object) -> None:
    text = json.dumps(value).encode()
    assert _are_explained(_refusals(text))
    assert _are_explained(_refusals(b"targets: [{name: x, kind: y}]", text))


@_relaxed
@given(st.lists(_KEYS, min_size=1, max_size=4), st.text(max_size=20) | _YAML_LIKE)
def test_any_variable_is_understood_or_refused_with_file_and_reason(path: list[str], value: str) -> None:
    name = "ONCALL_AGENT__" + "__".join(path).upper()
    assert _are_explained(_refusals(b"server: {port: 1}\ntargets: []", environ={name: value}))


def test_a_configuration_leads_to_the_systems_of_its_runbooks_probes_and_settings(tmp_path):
    main = "backends: {redis: {}}\ntargets:\n- {name: web, kind: http_app, probes: [{kind: tcp}]}"
    runbook = "- {name: web, class: crash, match: {alertname: A}, candidates: [{action: app.restart}]}"
    found = _load(tmp_path, main, web=runbook)
    assert found.systems == {"app", "escalate", "redis", "tcp", "watch"}
