"""Feature values for endpoints to look up: computed, stored, and made the newest."""

import time
from datetime import UTC, datetime
from typing import Any

from rayapp.config.operations import FeatureFeedConfig
from rayapp.config.snapshot import SnapshotConfig
from rayapp.data.feed_store import make_newest
from rayapp.data.publish import publish_feed
from rayapp.errors import RayappError
from rayapp.flows.room import ONE_CPU, telling_waits
from rayapp.flows.session import Session
from rayapp.schemas.features import FeatureFeed


def publish_features(session: Session, config: FeatureFeedConfig) -> dict[str, Any]:
    """Publish once, or again and again until the job is stopped. Returns the figures of the job's
    last line. With every_s, what fails is told and tried again: what was published before stays,
    until endpoints find it stale."""
    snapshot = session.load(SnapshotConfig, config.snapshot)
    with session.exclusive(f"publish-{config.name}"):
        while True:
            began_s = time.monotonic()
            try:
                with telling_waits(session, ONE_CPU):
                    feed = _published(session, config, snapshot)
            except RayappError as error:
                if config.every_s is None:
                    raise
                session.say(f"feed {config.name}: not published: {error}")
            else:
                if config.every_s is None:
                    return _figures(feed)
            time.sleep(max(0.0, config.every_s - (time.monotonic() - began_s)))


def _published(
    session: Session, config: FeatureFeedConfig, snapshot: SnapshotConfig
) -> FeatureFeed:
    at = datetime.now(UTC)
    feed = publish_feed(config, snapshot, session.workspace, at, session.say)
    make_newest(session.workspace, feed)
    for table in feed.tables:
        by = ", ".join(table.keys) or "all"
        session.say(
            f"feed {feed.name}: {len(table.columns)} features by {by}: {table.num_rows:,} rows, "
            f"stale at {table.stale_at:%Y-%m-%d %H:%M:%S} UTC"
            + (" (already)" if table.stale_at <= at else "")
        )
    return feed


def _figures(feed: FeatureFeed) -> dict[str, Any]:
    return {
        "feed": feed.name,
        "at": feed.at,
        "tables": [
            {
                "keys": table.keys,
                "columns": [name for name, _ in table.columns],
                "num_rows": table.num_rows,
                "stale_at": table.stale_at,
            }
            for table in feed.tables
        ],
    }
