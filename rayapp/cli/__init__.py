"""The `rayapp` command. Everything that is heavy is imported by the command that needs it."""

from rayapp.cli.app import main

__all__ = ["main"]
