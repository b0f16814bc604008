"""A person's own workspace, and its ledger in that person's name."""

import getpass
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rayapp.ledger import Ledger
    from rayapp.storage import Workspace


def own_workspace() -> "Workspace":
    """That of RAYAPP_WORKSPACE. Raises WorkspaceError."""
    from rayapp.storage import Workspace

    return Workspace.from_environment(os.environ)


def own_ledger() -> "Ledger":
    """Raises WorkspaceError."""
    from rayapp.ledger import Ledger

    return Ledger.of(own_workspace(), getpass.getuser())
