"""The command line: thin verbs over the daemon's HTTP interface and over the configuration."""

from oncall_agent.cli.app import main

__all__ = ["main"]
