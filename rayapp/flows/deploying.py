"""A serving config, put into effect without anything else of the golden path."""

from typing import Any

from rayapp.config.serving import ServeFile
from rayapp.flows.session import Session
from rayapp.release.promote import champions
from rayapp.serve.cluster.deploy import deploy


def deploy_file(session: Session, config: ServeFile) -> dict[str, Any]:
    """Deploy it and wait until it answers. Returns the figures of the job's last line."""
    urls = deploy(config, session.dashboard_url, session.environ, session.say)
    return {**urls, "champions": sorted(champions(session.ledger))}
