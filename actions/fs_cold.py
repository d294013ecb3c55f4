"""Moving cold files to another filesystem, with checksums, and back."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from actions.fs_executor import KIND, NO_SECRET, FsExecutor
from actions.fs_moving import Moved, are_apart, as_facts, copied, digest_of, removed, room_of
from actions.fs_quarantine import Limits, files_in, root_of, space_of
from actions.fs_record import Record
from oncall_agent.contract import (
    ActionContext,
    ActionSpec,
    Check,
    Params,
    PermanentError,
    Receipt,
    RiskClass,
    Target,
)

_MOVED = "moved.jsonl"
_SHOWN = 20
_RESERVE = 0.05


class MoveParams(Params):
    """Which files, and where to."""

    to: str = Field(min_length=2, max_length=4_096)
    """One of `backends.filesystem.cold_roots`."""
    glob: str = Field("*", min_length=1, max_length=200, pattern=r"^[^/\x00]+$")
    """Over the file's name, at any depth."""
    older_than_seconds: float = Field(2_592_000.0, ge=0, le=315_360_000)
    """Since it was last changed."""
    max_bytes: int = Field(10_737_418_240, ge=1)
    max_files: int = Field(1_000, ge=1, le=10_000)


class MoveCold(FsExecutor):
    """Copies old files elsewhere, compares, and removes the originals; rollback brings them back."""

    spec = ActionSpec(
        id="filesystem.move_cold",
        summary="Move old files to another filesystem, with checksums.",
        target_kind=KIND,
        params=MoveParams,
        risk=RiskClass.R1,
        reversible=True,
        deadline_seconds=600.0,
        cost=0.1,
        family="cache",
        exemptions=NO_SECRET,
    )

    async def precheck(self, ctx: ActionContext) -> Check:
        """Refuse a destination that is not listed, on the same filesystem, or without room; show what would go."""
        return await self.asked(ctx, lambda root: self._looked(ctx, root))

    async def execute(self, ctx: ActionContext) -> Receipt:
        """Move the files, oldest first; a call under the same key does not add to what a former one chose."""
        facts = await self.run(ctx, lambda root: self._moved(ctx, root, ctx.clock.now()))
        return Receipt(self.spec.id, ctx.clock.now(), facts, planned=ctx.dry_run)

    async def verify(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Say whether each file is there with its checksum, gone here, and no other of the kind is left."""
        return await self.run(ctx, lambda root: self._compared(ctx, root))

    async def rollback(self, ctx: ActionContext, receipt: Receipt) -> Check:
        """Move them back; one whose place is taken again stays where it is."""
        return await self.run(ctx, lambda root: self._back(ctx, root))

    def _looked(self, ctx: ActionContext, root: str) -> Check:
        destination = self._destination(ctx)
        files, is_cut = files_in(root, self._limits(ctx))
        total = sum(size for _, size in files)
        room = room_of(destination)
        facts = {
            "files": len(files),
            "bytes": total,
            "is_cut": is_cut,
            "room": room,
            "shown": [path[:300] for path, _ in files[:_SHOWN]],
        }
        reason = _refusal(root, destination, total, room)
        return Check(ok=not reason, reason=reason, facts=facts)

    def _moved(self, ctx: ActionContext, root: str, now: float) -> dict[str, Any]:
        checked = self._looked(ctx, root)
        if ctx.dry_run:
            return dict(checked.facts)
        destination, record = self._destination(ctx), self._record(ctx, root)
        if not record.read().get("done"):
            known = record.read()
            if not known:
                if not checked.ok:
                    raise PermanentError(checked.reason)
                chosen = files_in(root, self._limits(ctx))[0]
                known = record.keep({"done": False, "is_cut": checked.facts["is_cut"]}, now)
                for path, _ in chosen:
                    record.append("chosen.jsonl", {"path": path})
            self._move_all(root, destination, record)
            record.keep({**known, "done": True, "free_after": space_of(root)["free_bytes"]}, now)
        return _told(record, destination)

    def _move_all(self, root: str, destination: str, record: Record) -> None:
        begun = {entry["path"]: Moved(**entry) for entry in record.entries(_MOVED)}
        for path in [entry["path"] for entry in record.entries("chosen.jsonl")]:
            moved = begun.get(path)
            if moved is None and digest_of(root, path):
                moved = copied(root, destination, path)
                if moved is not None:
                    record.append(_MOVED, as_facts(moved))
            if moved is not None:
                removed(root, moved)

    def _compared(self, ctx: ActionContext, root: str) -> Check:
        destination, record = self._destination(ctx), self._record(ctx, root)
        entries = [Moved(**entry) for entry in record.entries(_MOVED)]
        facts = {**_told(record, destination), **space_of(root)}
        wrong = [one.path for one in entries if digest_of(destination, one.path) != one.sha256]
        if wrong or not entries:
            reason = f"{len(wrong)} files are not there as they were" if wrong else "nothing was moved"
            return Check(ok=False, reason=reason, facts=facts)
        left = files_in(root, self._limits(ctx))[0]
        if left and not record.read().get("is_cut"):
            return Check(ok=False, reason=f"{len(left)} files that should have gone are there", facts=facts)
        return Check(ok=True, facts=facts)

    def _back(self, ctx: ActionContext, root: str) -> Check:
        destination, record = self._destination(ctx), self._record(ctx, root)
        if not record.is_there():
            return Check(ok=False, reason="what was moved is no longer remembered, or nothing was")
        restored = left = 0
        for moved in [Moved(**entry) for entry in record.entries(_MOVED)]:
            if digest_of(destination, moved.path) == moved.sha256:
                is_back = copied(destination, root, moved.path) or digest_of(root, moved.path) == moved.sha256
                if is_back:
                    removed(destination, moved)
            is_home = digest_of(root, moved.path) == moved.sha256
            restored, left = restored + is_home, left + (not is_home)
        reason = f"{left} files could not go back" if left else ""
        return Check(ok=not left, reason=reason, facts={"restored": restored, "left": left})

    def _limits(self, ctx: ActionContext) -> Limits:
        age = max(ctx.params.older_than_seconds, self.conf.min_age_seconds)
        return Limits(ctx.params.glob, ctx.started_at - age, ctx.params.max_bytes, ctx.params.max_files)

    def _destination(self, ctx: ActionContext) -> str:
        listed = Target("cold", KIND, address={"root": ctx.params.to})
        return root_of(listed, self.conf.cold_roots)

    def _record(self, ctx: ActionContext, root: str) -> Record:
        # There is room at the destination; the source may be full to the last byte.
        return Record(self._destination(ctx), root, ctx.idempotency_key, self.conf.quarantine_seconds)


def _refusal(root: str, destination: str, total: int, room: int) -> str:
    if not are_apart(root, destination):
        return "the destination is on the same filesystem: moving frees nothing"
    if not total:
        return "no file may go"
    return "" if total * (1 + _RESERVE) <= room else f"the destination has room for {room} bytes only"


def _told(record: Record, destination: str) -> dict[str, Any]:
    entries = record.entries(_MOVED)
    total = sum(entry["size"] for entry in entries)
    shown = [entry["path"][:300] for entry in entries[:_SHOWN]]
    return {"files": len(entries), "bytes": total, "to": destination, "shown": shown}
