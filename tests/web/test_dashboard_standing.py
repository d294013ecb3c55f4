"""What stands above every page."""

import pytest

from oncall_agent.models import Autonomy, Control
from oncall_agent.settings.model import Settings
from oncall_agent.web.pages.standing import banners, highest_level

NOW = 1_700_000_000.0
AUTO = {"autonomy": {"default": "auto"}}
WINDOW = {"name": "launch", "starts_at": NOW - 60, "ends_at": NOW + 60}


@pytest.mark.parametrize(
    ("configured", "control", "expected"),
    [
        pytest.param({}, Control(), ["Shadow"], id="fresh install"),
        pytest.param({"autonomy": {"default": "observe"}}, Control(), ["Observe"], id="observe"),
        pytest.param({"autonomy": {"default": "suggest"}}, Control(), ["Suggest"], id="suggest"),
        pytest.param(AUTO, Control(), [], id="acts without reserve"),
        pytest.param(AUTO, Control(paused=True, paused_by="ana"), ["Stopped"], id="kill switch"),
        pytest.param(AUTO, Control(draining=True), ["Draining"], id="draining"),
        pytest.param(AUTO, Control(frozen_until=NOW + 5), ["Change freeze"], id="frozen"),
        pytest.param(AUTO, Control(frozen_until=NOW - 5), [], id="freeze is over"),
        pytest.param(
            AUTO | {"guard": {"freeze_windows": [WINDOW]}}, Control(), ["Change freeze"], id="window"
        ),
        pytest.param(
            {},
            Control(paused=True, draining=True, frozen_until=NOW + 5),
            ["Stopped", "Draining", "Change freeze", "Shadow"],
            id="all at once, the gravest first",
        ),
    ],
)
def test_banner_says_what_holds_the_daemon_back(configured, control, expected):
    settings = Settings.model_validate(configured)
    assert expected == [banner.title for banner in banners(settings, control, NOW)]


def test_kill_switch_banner_names_who_and_why():
    settings = Settings.model_validate(AUTO)
    [banner] = banners(settings, Control(paused=True, paused_by="ana", paused_reason="bad deploy"), NOW)
    assert "by ana: bad deploy" in banner.text


@pytest.mark.parametrize(
    ("configured", "overrides", "expected"),
    [
        ({}, {}, Autonomy.SHADOW),
        ({"autonomy": {"rules": [{"class": "crash", "level": "approve"}]}}, {}, Autonomy.APPROVE),
        ({}, {"crash/*/*": Autonomy.AUTO}, Autonomy.AUTO),
        (AUTO, {"crash/*/*": Autonomy.OBSERVE}, Autonomy.AUTO),
    ],
    ids=["default", "rule", "override", "override below the default"],
)
def test_posture_is_the_most_that_anything_grants(configured, overrides, expected):
    assert expected == highest_level(Settings.model_validate(configured), Control(overrides=overrides))
