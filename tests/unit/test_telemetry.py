"""What a log line shows."""

import logging

from rayapp.telemetry import EventFormatter


def test_an_events_facts_are_shown() -> None:
    record = logging.makeLogRecord(
        {"name": "rayapp.data", "levelname": "WARNING", "msg": "table_stale", "age_h": 99}
    )
    assert EventFormatter().format(record).endswith("WARNING rayapp.data table_stale age_h=99")
