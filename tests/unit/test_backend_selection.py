"""Which backends a run has and insists on, read from its environment."""

import pytest
from backends import selection
from backends.catalogue import NAMES
from backends.provision import Provisioned, environment

REDIS = {"ONCALL_TEST_REDIS_URL": "redis://127.0.0.1:1/0"}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        pytest.param("", set(), id="nothing asked"),
        pytest.param("all", set(NAMES), id="all"),
        pytest.param("docker", {"docker"}, id="one"),
        pytest.param(" docker, redis,", {"docker", "redis"}, id="a list with blanks"),
    ],
)
def test_required_backends_are_read_from_the_environment(asked, expected):
    assert selection.required({"ONCALL_REQUIRE_BACKENDS": asked}) == expected


def test_an_unknown_required_backend_is_an_error_that_names_it():
    with pytest.raises(ValueError, match="unknown oracle; known: all, docker"):
        selection.required({"ONCALL_REQUIRE_BACKENDS": "redis,oracle"})


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        pytest.param(REDIS, None, id="real"),
        pytest.param({}, "not provisioned (scripts/test starts it)", id="never started"),
        pytest.param({"ONCALL_TEST_REDIS_URL": ""}, "not provisioned (scripts/test starts it)", id="empty"),
        pytest.param({"ONCALL_TEST_MISSING_REDIS": "no apt"}, "no apt", id="reason given"),
    ],
)
def test_a_backend_is_missing_for_the_reason_given(environ, expected):
    assert selection.missing_reason("redis", environ) == expected


def test_a_backend_that_needs_several_values_is_missing_when_one_is():
    assert selection.missing_reason("docker", {"ONCALL_TEST_DOCKER_HOST": "unix:///x"}) is not None


def test_a_marker_with_an_unknown_backend_is_an_error():
    with pytest.raises(ValueError, match="unknown backend 'oracle'"):
        selection.missing_reason("oracle", {})


def test_the_environment_of_the_tests_has_values_of_real_backends_and_reasons_of_missing_ones():
    results = [Provisioned("redis", 0.1, REDIS), Provisioned("postgres", 0.1, {}, "no apt")]
    assert environment(results) == {**REDIS, "ONCALL_TEST_MISSING_POSTGRES": "no apt"}
