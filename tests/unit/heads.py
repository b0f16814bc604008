"""A Ray head as its workspace remembers it."""

from typing import Any

from rayapp.cli.head_state import Head


def known_head(**known: Any) -> Head:
    """One of nobody's, but for what is known of it."""
    fields: dict[str, Any] = {
        "pid": 1,
        "started_s": 0.0,
        "dashboard_url": "http://127.0.0.1:1",
        "endpoint_url": "http://127.0.0.1:2",
        "gcs_port": 3,
        "temp_dir": "/tmp/x",
        "token_path": "/tmp/token",
        "workspace": "/tmp/w",
        "log_path": "/tmp/log",
        "settings": {},
    }
    return Head(**(fields | known))
