"""The calendar periods that money is counted in, in UTC: a day, 2026-11-29, or a month, 2026-11."""

from datetime import UTC, datetime, timedelta


def period_of(kind: str, now: datetime) -> str:
    """kind: day or month."""
    return now.astimezone(UTC).strftime("%Y-%m-%d" if kind == "day" else "%Y-%m")


def bounds(period: str) -> tuple[datetime, datetime]:
    """Its first moment, and that of the next one."""
    if period.count("-") == 2:
        start = datetime.fromisoformat(period).replace(tzinfo=UTC)
        return start, start + timedelta(days=1)
    start = datetime.fromisoformat(f"{period}-01").replace(tzinfo=UTC)
    return start, (start + timedelta(days=32)).replace(day=1)
