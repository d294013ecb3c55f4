"""The programs that actions on folders work with; there is nothing to start."""

from pathlib import Path

from backends.base import Backend, Need, about, require_command
from backends.processes import version_of


class FilesystemTools(Backend):
    """logrotate, and the commands of access control lists."""

    name = "filesystem"
    fixture = "logrotate"
    needs = (Need("logrotate", "logrotate"), Need("acl", "setfacl"))
    variables = ("ONCALL_TEST_LOGROTATE",)

    def start(self, folder: Path, cache: Path) -> dict[str, str]:
        """Find them."""
        program = require_command("logrotate")
        require_command("setfacl")
        return {"ONCALL_TEST_LOGROTATE": program, **about(self.name, version_of(program))}
