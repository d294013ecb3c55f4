"""The executor of the documentation passes its own contract test, and fails it when it is broken."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from docs.example import FOLDER, module

from oncall_agent.contract import ActionContext, Executor, Receipt
from oncall_agent.testing import check_executor


async def test_the_example_passes_its_contract_test(tmp_path: Path) -> None:
    await module("test_oncall_agent_flags").test_contract(tmp_path)


async def test_the_contract_test_of_the_example_notices_a_dry_run_that_acts(tmp_path: Path) -> None:
    broken = replace(module("test_oncall_agent_flags").world_in(tmp_path), factory=_acting_in_a_dry_run)
    scorecard = await check_executor(broken, show=None)
    assert {"dry_run"} <= set(scorecard.failures)


def test_the_entry_point_of_the_example_is_its_action() -> None:
    project = tomllib.loads((FOLDER / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ((action, place),) = project["entry-points"]["oncall_agent.actions"].items()
    kind = getattr(module(place.partition(":")[0]), place.partition(":")[2])
    assert issubclass(kind, Executor)
    assert action == kind.spec.id


def _acting_in_a_dry_run() -> Executor:
    class Eager(module("oncall_agent_flags").TurnOff):  # type: ignore[misc]
        async def execute(self, ctx: ActionContext) -> Receipt:
            return replace(await super().execute(replace(ctx, dry_run=False)), planned=ctx.dry_run)

    return Eager({})


@pytest.mark.parametrize("content", ["", "[]x", "{"], ids=["empty", "no JSON", "cut off"])
async def test_the_example_refuses_a_damaged_file(tmp_path: Path, content: str) -> None:
    world = module("test_oncall_agent_flags").world_in(tmp_path)
    (tmp_path / "flags.json").write_text(content or json.dumps({}))
    ctx, _ = world.context()
    if content:
        with pytest.raises(Exception, match="can't be read"):
            await world.factory().precheck(ctx)
    else:
        assert not (await world.factory().precheck(ctx)).ok
