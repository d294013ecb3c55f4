"""Snapshots: bit for bit the same policy in another process, and nothing else is ever loaded."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oncall_agent.errors import PolicyError
from oncall_agent.models import Autonomy, Candidate, Permitted
from oncall_agent.policy import snapshot
from oncall_agent.policy.base import PolicyUpdate
from oncall_agent.policy.features import LAYOUT, Context, encode
from oncall_agent.policy.layout import Layout
from oncall_agent.policy.linear import LinearThompson
from oncall_agent.settings.model import PolicySettings

SETTINGS = PolicySettings(noise_scale=0.25, prior_weight=2.0)
CALM = Context("disk-full", "warning", 3.5, 0, 1, 1, 0, flapping=False, last_failed=False)
ACTIONS = ("app.restart", "app.scale_up", "escalate.page")
ALLOWED = [Permitted(Candidate(action, "web", prior=0.2), Autonomy.AUTO) for action in ACTIONS]

Arrays = dict[str, Any]


def _context(number: int) -> Context:
    return replace(CALM, alert_class=f"class-{number % 5}", cpu=number % 7 / 7, hour=number % 24)


def _teach(policy: LinearThompson, until: int) -> LinearThompson:
    for number in range(policy.version, until):
        x = tuple(encode(_context(number)).tolist())
        policy.update(PolicyUpdate(number + 1, ACTIONS[number % 3], x, number % 11 / 11, 0.2))
    return policy


def _choices(policy: LinearThompson) -> list[str]:
    """Give every number of many choices in a form that shows its last bit."""
    seen = []
    for number in range(60):
        choice = policy.choose(encode(_context(number)), ALLOWED, seed=number)
        seen += [str(choice.index), choice.explanation]
        seen += [value.hex() for s in choice.scored for value in (s.mean, s.std, s.propensity)]
    return seen


TAUGHT = _teach(LinearThompson(SETTINGS), 400)
BLOB = TAUGHT.snapshot()

REPLAY = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_policy_snapshot as here
policy = here.LinearThompson.restore(Path(sys.argv[2]).read_bytes(), here.SETTINGS)
first = here._choices(policy)
print(json.dumps([first, here._choices(here._teach(policy, 500))]))
"""


def test_a_snapshot_restored_in_another_process_chooses_bit_for_bit_the_same(tmp_path: Path) -> None:
    (tmp_path / "policy.npz").write_bytes(BLOB)
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", REPLAY, here, str(tmp_path / "policy.npz")],
        capture_output=True, text=True, check=True, timeout=50,
    )  # fmt: skip
    later = _teach(LinearThompson.restore(BLOB, SETTINGS), 500)
    assert [_choices(TAUGHT), _choices(later)] == json.loads(done.stdout)


def test_a_restored_policy_goes_on_as_if_it_had_never_stopped() -> None:
    without_a_stop = _teach(LinearThompson(SETTINGS), 600)
    assert without_a_stop.snapshot() == _teach(LinearThompson.restore(BLOB, SETTINGS), 600).snapshot()


def test_the_same_policy_gives_the_same_bytes() -> None:
    assert LinearThompson.restore(BLOB, SETTINGS).snapshot() == BLOB
    assert _teach(LinearThompson(SETTINGS), 400).snapshot() == BLOB


def test_an_untaught_policy_survives() -> None:
    restored = LinearThompson.restore(LinearThompson(SETTINGS).snapshot(), SETTINGS)
    assert (restored.version, restored.counts) == (0, {})


def test_new_settings_apply_to_the_old_evidence() -> None:
    other = PolicySettings(noise_scale=0.5, prior_weight=7.0)
    expected = _teach(LinearThompson(other), 400).choose(encode(CALM), ALLOWED, seed=1)
    got = LinearThompson.restore(BLOB, other).choose(encode(CALM), ALLOWED, seed=1)
    assert [s.mean for s in expected.scored] == pytest.approx([s.mean for s in got.scored], abs=1e-10)
    assert [s.std for s in expected.scored] == pytest.approx([s.std for s in got.scored], abs=1e-10)


def test_it_is_an_npz_archive_without_pickle() -> None:
    with np.load(io.BytesIO(BLOB), allow_pickle=False) as archive:
        assert {"header", "gram", "moment", "covariance", "digest"} == set(archive.files)


@pytest.mark.parametrize("place", range(0, len(BLOB), max(1, len(BLOB) // 300)))
def test_a_flipped_byte_is_found_or_does_not_matter(place: int) -> None:
    broken = bytearray(BLOB)
    broken[place] ^= 0x55
    assert _loaded(bytes(broken)) in (None, BLOB)


def _loaded(blob: bytes) -> bytes | None:
    try:
        return LinearThompson.restore(blob, SETTINGS).snapshot()
    except PolicyError:
        return None


@pytest.mark.parametrize("length", [0, 1, 100, len(BLOB) // 2, len(BLOB) - 1])
def test_a_truncated_snapshot_is_refused(length: int) -> None:
    with pytest.raises(PolicyError, match="snapshot"):
        LinearThompson.restore(BLOB[:length], SETTINGS)


def _npz(**arrays: Any) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def _empty_zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("readme.txt", "hello")
    return out.getvalue()


@pytest.mark.parametrize(
    "blob",
    [
        pytest.param(b"not a policy", id="text"),
        pytest.param(pickle.dumps({"gram": 1}), id="pickle"),
        pytest.param(_npz(a=np.zeros(3)), id="foreign-npz"),
        pytest.param(_empty_zip(), id="foreign-zip"),
        pytest.param(
            _npz(**dict.fromkeys(("header", "gram", "moment", "covariance", "digest"), np.array([{}], dtype=object))),
            id="objects",
        ),
    ],
)  # fmt: skip
def test_what_is_no_snapshot_is_refused(blob: bytes) -> None:
    with pytest.raises(PolicyError, match="snapshot"):
        LinearThompson.restore(blob, SETTINGS)


def test_a_snapshot_of_other_columns_is_refused() -> None:
    other = Layout(LAYOUT.version + 1, LAYOUT.groups)
    with pytest.raises(PolicyError, match="schema"):
        LinearThompson.restore(LinearThompson(SETTINGS, layout=other).snapshot(), SETTINGS)


def _forged(change: Callable[[Arrays, dict[str, Any]], None]) -> bytes:
    """Give a snapshot with something changed and the digest made right again."""
    arrays = snapshot._arrays(BLOB)
    header = json.loads(arrays["header"].tobytes())
    arrays = {name: array.copy() for name, array in arrays.items()}
    change(arrays, header)
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    return snapshot._archive({**arrays, "digest": snapshot._digest(arrays)})


def test_a_forgery_without_a_change_is_the_snapshot() -> None:
    assert _forged(lambda *_: None) == BLOB


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(lambda _, h: h.update(kind="neural"), "kind", id="kind"),
        pytest.param(lambda _, h: h.update(format=2), "format", id="format"),
        pytest.param(lambda _, h: h.update(schema="v0:0"), "schema", id="schema"),
        pytest.param(lambda _, h: h.update(version=-1), "header", id="version"),
        pytest.param(lambda _, h: h.update(version="1"), "header", id="version-text"),
        pytest.param(lambda _, h: h.pop("weight"), "header", id="no-weight"),
        pytest.param(lambda _, h: h.update(counts=[1, 2]), "header", id="counts-missing"),
        pytest.param(lambda _, h: h.update(actions=["a", "a", "b"]), "header", id="action-twice"),
        pytest.param(lambda _, h: h.update(actions=None), "header", id="no-actions"),
        pytest.param(lambda _, h: h.update(actions=["a"], counts=[1]), "shapes", id="too-many-rows"),
        pytest.param(lambda a, _: a["gram"].fill(np.nan), "finite", id="nan"),
        pytest.param(lambda a, _: a["gram"].fill(-5.0), "evidence", id="impossible-evidence"),
        pytest.param(lambda a, _: a.update(moment=a["moment"][:, 1:]), "shapes", id="fewer-columns"),
        pytest.param(lambda a, _: a.update(moment=a["moment"].astype("f4")), "float64", id="other-type"),
    ],
)
def test_a_snapshot_that_can_not_be_is_refused_whatever_its_digest(
    change: Callable[[Arrays, dict[str, Any]], None], reason: str
) -> None:
    with pytest.raises(PolicyError, match=reason):
        LinearThompson.restore(_forged(change), SETTINGS)


def test_a_changed_array_without_its_digest_is_refused() -> None:
    arrays = snapshot._arrays(BLOB)
    old = np.frombuffer(hashlib.sha256(b"old").digest(), dtype=np.uint8)
    with pytest.raises(PolicyError, match="digest"):
        LinearThompson.restore(snapshot._archive({**arrays, "digest": old}), SETTINGS)
