"""Sessions and the gate: cookies can't be forged, outlived or carried by a foreign page."""

from dataclasses import dataclass, field

import pytest
from aiohttp.test_utils import make_mocked_request

from oncall_agent.contract.secret import Secret
from oncall_agent.errors import AuthError
from oncall_agent.settings.model import ServerSettings
from oncall_agent.web.auth import LOCAL, SESSION_COOKIE, Gate, Identity
from oncall_agent.web.secrets import SecretCache
from oncall_agent.web.sessions import Sessions

TOKENS = (
    {"name": "otto", "role": "operator", "secret": "env:OTTO"},
    {"name": "ada", "role": "admin", "secret": "env:ADA"},
)


@dataclass
class Clock:
    seconds: float = 1000.0
    secrets: dict[str, str] = field(
        default_factory=lambda: {"env:OTTO": "otto-token", "env:ADA": "ada-token"}
    )

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds

    def read(self, reference: str) -> Secret:
        return Secret(self.secrets[reference])


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gate(clock: Clock) -> Gate:
    return Gate(ServerSettings.model_validate({"tokens": TOKENS}), clock.read, clock)


@pytest.fixture
def open_gate(clock: Clock) -> Gate:
    return Gate(ServerSettings(), clock.read, clock)


def request(method: str = "GET", **headers: str):
    named = {name.replace("_", "-"): value for name, value in {"Host": "localhost:8420", **headers}.items()}
    return make_mocked_request(method, "/", headers=named)


def cookie(value: str) -> str:
    return f"{SESSION_COOKIE}={value}"


OTTO = Identity("otto", "operator", authenticated=True)


def test_a_known_token_is_its_owner(gate: Gate) -> None:
    assert OTTO == gate.identify(request(Authorization="Bearer otto-token"))


@pytest.mark.parametrize(
    "header", ["Bearer nope", "Bearer ", "Basic b3R0bw==", "otto-token", "Bearer otto-token2"]
)
def test_an_unknown_token_is_nobody(gate: Gate, header: str) -> None:
    with pytest.raises(AuthError) as caught:
        gate.identify(request(Authorization=header))
    assert 401 == caught.value.status


def test_without_tokens_everybody_here_is_local(open_gate: Gate) -> None:
    assert LOCAL == open_gate.identify(request())
    assert not LOCAL.authenticated


def test_a_session_is_its_owner_until_its_end(gate: Gate, clock: Clock) -> None:
    carried = request(Cookie=cookie(gate.issue(OTTO)))
    assert OTTO == gate.identify(carried)
    clock.seconds += 12 * 3600 - 1
    assert OTTO == gate.identify(carried)
    clock.seconds += 2
    with pytest.raises(AuthError):
        gate.identify(carried)


def test_a_session_outlives_a_restart(gate: Gate, clock: Clock) -> None:
    again = Gate(ServerSettings.model_validate({"tokens": TOKENS}), clock.read, clock)
    assert OTTO == again.identify(request(Cookie=cookie(gate.issue(OTTO))))


def test_a_session_ends_when_its_token_is_changed(gate: Gate, clock: Clock) -> None:
    carried = request(Cookie=cookie(gate.issue(OTTO)))
    clock.secrets["env:OTTO"] = "another"
    clock.seconds += 60
    with pytest.raises(AuthError):
        gate.identify(carried)


def forged(good: str, clock: Clock) -> dict[str, str]:
    name, end, nonce, signature = good.split(".")
    strange = Sessions(clock).issue("otto", b"other key", 60)
    return {
        "empty": "",
        "dots": "...",
        "longer-life": f"{name}.{int(end) + 9}.{nonce}.{signature}",
        "other-name": f"YWRh.{end}.{nonce}.{signature}",
        "no-signature": f"{name}.{end}.{nonce}.",
        "other-key": strange,
        "not-base64": f"%.{end}.{nonce}.{signature}",
        "end-word": f"{name}.soon.{nonce}.{signature}",
        "too-many-parts": f"{good}.{good}",
        "huge": "a" * 10_000,
    }


@pytest.mark.parametrize("kind", forged("a.1.b.c", Clock()))
def test_a_forged_session_is_nobody(gate: Gate, clock: Clock, kind: str) -> None:
    value = forged(gate.issue(OTTO), clock)[kind]
    with pytest.raises(AuthError):
        gate.identify(request(Cookie=cookie(value)))


def test_each_session_has_its_own_csrf_token(gate: Gate) -> None:
    first, second = (request(Cookie=cookie(gate.issue(OTTO))) for _ in range(2))
    assert gate.csrf_token(first) != gate.csrf_token(second)
    gate.check_csrf(first, gate.csrf_token(first))
    for wrong in (gate.csrf_token(second), "", None, "é\udcff"):
        with pytest.raises(AuthError) as caught:
            gate.check_csrf(first, wrong)
        assert (403, "csrf") == (caught.value.status, caught.value.code)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1:8420", "127.8.9.1", "[::1]:8420", "[::1]"]
)
def test_loopback_names_are_served_without_tokens(open_gate: Gate, host: str) -> None:
    open_gate.check_origin(request(Host=host))


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8420",
        "localhost.evil.example",
        "10.0.0.1",
        "[::2]",
        "127.0.0.1.evil.example",
        "",
    ],
)
def test_a_rebound_name_is_refused_without_tokens(open_gate: Gate, host: str) -> None:
    with pytest.raises(AuthError) as caught:
        open_gate.check_origin(request(Host=host))
    assert (403, "foreign_host") == (caught.value.status, caught.value.code)


def test_with_tokens_any_name_is_served(gate: Gate) -> None:
    gate.check_origin(request(Host="oncall.example"))


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "http://localhost:9999", "", "http://localhost:8420.evil.example"],
)
def test_an_unsafe_request_of_a_foreign_page_is_refused(gate: Gate, open_gate: Gate, origin: str) -> None:
    for each in (gate, open_gate):
        with pytest.raises(AuthError) as caught:
            each.check_origin(request("POST", Origin=origin))
        assert (403, "foreign_origin") == (caught.value.status, caught.value.code)


def test_an_unsafe_request_of_our_own_page_passes(gate: Gate, open_gate: Gate) -> None:
    for each in (gate, open_gate):
        each.check_origin(request("POST", Origin="http://localhost:8420"))
        each.check_origin(request("POST"))


@pytest.mark.parametrize(
    ("role", "wanted", "expected"),
    [
        ("viewer", "viewer", True),
        ("viewer", "operator", False),
        ("operator", "viewer", True),
        ("operator", "admin", False),
        ("admin", "operator", True),
    ],
)
def test_a_role_includes_the_lesser_ones(role: str, wanted: str, expected: bool) -> None:
    assert expected is Identity("x", role, authenticated=True).may(wanted)  # type: ignore[arg-type]


def test_a_secret_is_read_again_after_a_while(clock: Clock) -> None:
    read = SecretCache(clock.read, clock)
    assert "otto-token" == read("env:OTTO").reveal()
    clock.secrets["env:OTTO"] = "new"
    assert "otto-token" == read("env:OTTO").reveal()
    clock.seconds += 11
    assert "new" == read("env:OTTO").reveal()
