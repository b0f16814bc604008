"""Where long work is done: not on the event loop, where every other request would wait for it."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

INLINE_BYTES = 32 * 1024
"""Longer bodies are parsed and recorded in a thread, so that they do not hold up short ones."""


async def aside(work: Callable[[], Result], is_long: bool) -> Result:
    """Long work in a thread, short work here and now."""
    return await asyncio.to_thread(work) if is_long else work()
