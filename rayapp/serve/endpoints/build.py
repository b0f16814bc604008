"""An endpoint's configuration → the endpoints that make it up, from the inside out.

    Fallback( Shadow( Split( Breaker( Timeout( Cache( Release ))), … )), …, Static )

What is not configured is not there, and costs nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from rayapp.config.serving import EndpointConfig, FallbackConfig, Target
from rayapp.serve.endpoints.base import Ask, Endpoint, Reply
from rayapp.serve.endpoints.breaker import Breaker, State
from rayapp.serve.endpoints.cache import Cache
from rayapp.serve.endpoints.deadline import Deadlines, Timeout
from rayapp.serve.endpoints.fallback import Fallback
from rayapp.serve.endpoints.release import Release, Static
from rayapp.serve.endpoints.shadow import Shadow
from rayapp.serve.endpoints.split import Arm, Split
from rayapp.serve.follow import Loaded, release_key


class Hooks(Protocol):
    """What happens inside, for those who count."""

    def breaker(self, endpoint: str, target: str, state: State) -> None: ...
    def cache(self, endpoint: str, is_hit: bool) -> None: ...


@dataclass(frozen=True)
class Builder:
    """find: the release that a key stands for now (follow.release_key), or raises Unavailable.
    release_id: its id, or None. heard: an endpoint, an ask, and a shadow's reply to it."""

    find: Callable[[str], Loaded]
    release_id: Callable[[str], str | None]
    deadlines: Deadlines
    hooks: Hooks
    heard: Callable[[str, Ask, Reply], None]

    def endpoint(self, name: str, config: EndpointConfig) -> Endpoint:
        built = self._release(name, name, config)
        if config.split is not None:
            split = config.split
            arms = [
                Arm(arm_name, arm.share, self._target(name, arm, config))
                for arm_name, arm in split.arms.items()
            ]
            built = Split(built, arms, split.salt)
        if config.shadow is not None:
            shadow = config.shadow
            built = Shadow(
                built,
                self._target(name, shadow, config, stands_in=True),
                shadow.share,
                f"shadow/{name}",
                shadow.max_ongoing,
                lambda ask, reply: self.heard(name, ask, reply),
            )
        if config.fallback:
            others = [self._fallback(name, fallback, config) for fallback in config.fallback]
            built = Fallback([built, *others])
        return built

    def _fallback(self, name: str, fallback: FallbackConfig, config: EndpointConfig) -> Endpoint:
        if fallback.scores is not None:
            return Static(lambda: self.find(name), fallback.scores)
        return self._target(name, fallback, config, stands_in=True)

    def _target(
        self, name: str, target: Target, config: EndpointConfig, stands_in: bool = False
    ) -> Endpoint:
        key = release_key(target.endpoint or name, target.release)
        return self._release(name, key, config, stands_in)

    def _release(
        self, name: str, key: str, config: EndpointConfig, stands_in: bool = False
    ) -> Endpoint:
        """stands_in: a model of other columns; those that it has not are passed over."""
        built: Endpoint = Release(lambda: self.find(key), stands_in)
        if config.cache is not None:
            built = Cache(
                built,
                lambda: self.release_id(key),
                config.cache,
                lambda is_hit: self.hooks.cache(name, is_hit),
            )
        if config.timeout_ms is not None and not stands_in:
            built = Timeout(built, config.timeout_ms, self.deadlines)
        if config.breaker is not None:
            built = Breaker(
                built,
                f"release {key!r}",
                config.breaker,
                lambda state: self.hooks.breaker(name, key, state),
            )
        return built
