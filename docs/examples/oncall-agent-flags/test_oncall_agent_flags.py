"""The contract test: the same one that the built-in actions pass."""

import json
from pathlib import Path

from oncall_agent_flags import TurnOff

from oncall_agent.contract import Target
from oncall_agent.testing import Harness, check_executor


def world_in(folder: Path) -> Harness:
    path = folder / "flags.json"
    seen = {"file": 0, "writes": 0}

    async def make_sick() -> None:
        path.write_text(json.dumps({"new-checkout": True}))

    async def count_effects() -> int:
        # The executor puts a new file in place of the old one; `make_sick` writes into the one that is there.
        inode = path.stat().st_ino
        seen["writes"] += inode != seen["file"]
        seen["file"] = inode
        return seen["writes"]

    async def snapshot() -> object:
        return json.loads(path.read_text())

    return Harness(
        factory=lambda: TurnOff({}),
        target=Target("checkout-flags", "flag_file", address={"path": str(path)}),
        make_sick=make_sick,
        count_effects=count_effects,
        snapshot=snapshot,
        params={"flag": "new-checkout"},
    )


async def test_contract(tmp_path: Path) -> None:
    scorecard = await check_executor(world_in(tmp_path))
    assert scorecard.ok, scorecard.failures
