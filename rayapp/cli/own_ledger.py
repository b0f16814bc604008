"""The ledger of a person's own workspace, in that person's name."""

import getpass
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rayapp.ledger import Ledger


def own_ledger() -> "Ledger":
    """Of RAYAPP_WORKSPACE. Raises WorkspaceError."""
    from rayapp.ledger import Ledger
    from rayapp.storage import Workspace

    return Ledger.of(Workspace.from_environment(os.environ), getpass.getuser())
