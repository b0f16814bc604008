"""How much something is asked for: a count that halves by itself."""

import math


class Heat:
    """A count of asks in which each one weighs half as much after every half_life_s. Times are of
    one clock, in seconds."""

    __slots__ = ("_at_s", "_half_life_s", "_value")

    def __init__(self, half_life_s: float, now_s: float, value: float = 0.0) -> None:
        self._half_life_s = half_life_s
        self._value, self._at_s = value, now_s

    def at(self, now_s: float) -> float:
        return self._value * math.exp2(-max(0.0, now_s - self._at_s) / self._half_life_s)

    def add(self, now_s: float, amount: float = 1.0) -> None:
        self._value = self.at(now_s) + amount
        self._at_s = max(self._at_s, now_s)
