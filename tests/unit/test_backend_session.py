"""Failures of a run on real servers: a few are tried again alone, many are not."""

import json

import pytest
from backends.session import MOST_REPEATED, few_failed, spread


@pytest.mark.parametrize(
    ("failed", "expected"),
    [
        pytest.param(["b", "a"], ["a", "b"], id="few"),
        pytest.param([f"t{number}" for number in range(MOST_REPEATED + 1)], [], id="many"),
        pytest.param([], [], id="none"),
    ],
)
def test_a_few_failed_tests_are_tried_again(tmp_path, failed, expected):
    folder = tmp_path / ".pytest_cache" / "v" / "cache"
    folder.mkdir(parents=True)
    (folder / "lastfailed").write_text(json.dumps(dict.fromkeys(failed, True)))
    assert few_failed(tmp_path) == expected


def test_without_a_record_nothing_is_tried_again(tmp_path):
    assert few_failed(tmp_path) == []


def test_alone_means_in_one_process():
    assert spread(["-n0", "--last-failed"]) == []
