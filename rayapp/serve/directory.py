"""Which endpoints there are, and who answers at each: the champions that are followed, and what the
configuration puts around them."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Set

from rayapp.config.choosing import row_nano_usd
from rayapp.config.replicas import PoolConfig
from rayapp.config.serving import EndpointConfig, ServingConfig
from rayapp.errors import RequestError, Unavailable
from rayapp.families.inputs import shown
from rayapp.schemas.model import BundleSchema
from rayapp.schemas.record import SHORT_CHARS
from rayapp.serve.callers.budgets import Budgets
from rayapp.serve.endpoints.base import Ask, Endpoint, Reply
from rayapp.serve.endpoints.build import Builder, Hooks, not_chosen
from rayapp.serve.endpoints.charged import Charged
from rayapp.serve.endpoints.deadline import Deadlines
from rayapp.serve.endpoints.lookup import supply_of
from rayapp.serve.feeds import Feed, Feeds
from rayapp.serve.flags import Flags
from rayapp.serve.follow import LEDGER, ChampionFollower, Loaded, release_key
from rayapp.serve.wire.examples import LookedUp


class Directory:
    """heard: takes an endpoint, an ask, a shadow's reply to it and the milliseconds it took."""

    def __init__(
        self,
        config: ServingConfig,
        follower: ChampionFollower[Loaded],
        deadlines: Deadlines,
        hooks: Hooks,
        heard: Callable[[str, Ask, Reply, float], Awaitable[None]],
        budgets: Budgets | None = None,
        feeds: Feeds | None = None,
        flags: Flags | None = None,
    ) -> None:
        self._config = config
        self._budgets = budgets
        self._feeds = feeds
        self._flags = flags
        self._follower = follower
        self._builder = Builder(
            self._find,
            self._release_id,
            deadlines,
            hooks,
            heard,
            self._pool_of,
            self._current_feeds,
            flags,
            config.row_nano_usd,
            is_traced=config.tracing is not None,
            deadline_ms=config.deadline_ms,
        )
        self._endpoints = {name: self._built(name) for name in config.endpoints}

    def names(self) -> list[str]:
        return sorted(self._names())

    def _names(self) -> Set[str]:
        """Nothing is sorted or copied: each request that is refused looks."""
        return self._config.endpoints.keys() or self._follower.endpoints

    def releases(self) -> dict[str, str | None]:
        """Endpoint → the id of its champion, None where it could not be loaded."""
        return {name: self._release_id(name) for name in self.names()}

    def answering(self) -> dict[str, dict[str, BundleSchema]]:
        """Endpoint → release id → schema of all that may be asked by name, the champion's first;
        of endpoints whose champion is loaded. From any thread."""
        current = self._follower.current
        return {
            name: {one.release_id: one.schema for one in _releases(current, name)}
            for name in self.names()
            if name in current
        }

    def looked_up(self, answering: Mapping[str, Mapping[str, BundleSchema]]) -> dict[str, LookedUp]:
        """What callers need not send to each release of an endpoint that has feeds, by its id. From
        any thread. answering: as said before, since another champion may have come by now."""
        found, current = {}, self._current_feeds()
        for name, schemas in answering.items():
            feeds = [current[feed] for feed in self._config_of(name).feeds]
            for release_id, schema in schemas.items() if feeds else ():
                supply = supply_of(schema, feeds)
                columns = frozenset(column for _, places in supply.tables for column in places)
                found[release_id] = LookedUp(columns, tuple(supply.extra.values()))
        return found

    def is_ready(self) -> bool:
        """Everybody who answers a unit by intention is loaded: the champions of the endpoints that
        have one, and the arms of rules and splits. An endpoint that nothing was released for keeps
        nobody from the others."""
        names = self._follower.endpoints.intersection(self.names())
        keys = {
            release_key(arm.endpoint or name, arm.release)
            for name, config in self._config.endpoints.items()
            for arm in config.arms()
        }
        return bool(names) and keys.union(names) <= self._follower.current.keys()

    def problems(self) -> dict[str, str]:
        """Endpoints without a release; what does not follow the ledger; feeds without values, or
        whose newest cannot be read: `feeds/name`; rules that can take nothing: `endpoint/rule`; and
        those who may answer and cannot be chosen: `endpoint/arm`."""
        found = {
            **self._unreleased(),
            **self._follower.problems,
            **not_chosen(self._builder.choosing),
        }
        for feed in self._current_feeds().values():
            lack = feed.lacks()
            if lack is not None:
                found[f"feeds/{feed.name}"] = f"it {lack}"
        if self._flags is not None:
            rules = {name: config.rules for name, config in self._config.endpoints.items()}
            found |= self._flags.problems(rules)
        return found

    def _unreleased(self) -> dict[str, str]:
        missing = self._config.named() - self._follower.endpoints
        return dict.fromkeys(sorted(missing), "nothing was released for it yet")

    async def drain(self) -> None:
        """Wait for what shadows are at, and return what budgets have lent."""
        await asyncio.gather(*(shadow.drain() for shadow in self._builder.shadows))
        if self._budgets is not None:
            await self._budgets.drain()

    def blamed(self, name: str | None) -> tuple[str | None, str | None]:
        """Of a request that was refused: the endpoint, that of the name or the only one; and the
        release that would have answered, None where nobody can say, as where it is chosen among
        several."""
        names = self._names()
        if name is None and len(names) == 1:
            (name,) = names
        if name is None or name not in names:
            return None, None
        config = self._config.endpoints.get(name)
        champion = self._follower.current.get(name)
        if champion is None or (config is not None and (config.arms() or config.priced())):
            return name, None
        return name, champion.release_id

    def resolve(self, name: str | None) -> str:
        """The endpoint of this name, or the only one. Raises RequestError 404."""
        names = self._names()
        if name is None:
            if len(names) > 1:
                raise RequestError(
                    f"this server answers for {len(names)} endpoints",
                    f"name one: /endpoints/NAME/invocations of {sorted(names)}",
                    404,
                    "unknown_endpoint",
                )
            return next(iter(names), "")
        if names and name not in names:
            raise RequestError(
                f"there is no endpoint {shown(name)}",
                f"endpoints are {sorted(names)}",
                404,
                "unknown_endpoint",
                name,
            )
        return name

    def loaded(self, name: str | None, version: str | None) -> Loaded:
        """The release that is spoken of: an endpoint's champion, or the version of it that is
        named. Raises RequestError 404, or Unavailable."""
        name = self.resolve(name)
        champion = self._find(name)
        if version is None:
            return champion
        releases = _releases(self._follower.current, name)
        loaded = next((one for one in releases if _is_named(one, version)), None)
        if loaded is None:
            raise RequestError(
                f"release {shown(version)} does not answer at {name!r}",
                f"the champion is {champion.release_id}",
                404,
                "unknown_version",
                version,
            )
        return loaded

    def endpoint(self, name: str | None, version: str | None) -> tuple[str, Endpoint]:
        """The endpoint's name, and who answers: all that is configured for it, or the one release
        that is named. Raises RequestError 404, or Unavailable."""
        if version is None and name in self._endpoints:
            return name, self._endpoints[name]
        name = self.resolve(name)
        if version is not None:
            loaded = self.loaded(name, version)
            version_id = loaded.release_id
            one = self._builder.release(name, lambda: loaded, lambda: version_id)
            one = self._builder.looked_up(name, one, self._config_of(name), lambda: loaded)
            return name, self._charged(one, self._row_nano_usd(name, loaded))
        endpoint = self._endpoints.get(name)
        if endpoint is None:
            endpoint = self._built(name)
            if name in self._names():  # else every name that is tried would be kept
                self._endpoints[name] = endpoint
        return name, endpoint

    def _built(self, name: str) -> Endpoint:
        """It asks for releases only when it is asked itself, so there need be none yet."""
        built = self._builder.endpoint(name, self._config_of(name))
        most_nano_usd = self._most_row_nano_usd(name)
        return self._charged(built, self._config.row_nano_usd(name), most_nano_usd)

    def _current_feeds(self) -> Mapping[str, Feed]:
        return self._feeds.current if self._feeds is not None else {}

    def _config_of(self, name: str) -> EndpointConfig:
        return self._config.endpoints.get(name) or EndpointConfig()

    def _charged(
        self, endpoint: Endpoint, row_nano_usd: int, most_nano_usd: int | None = None
    ) -> Endpoint:
        if not row_nano_usd:
            return endpoint
        return Charged(endpoint, row_nano_usd, self._budgets, most_nano_usd)

    def _row_nano_usd(self, name: str, loaded: Loaded) -> int:
        """Of a row that one release answers by its name."""
        priced = self._config_of(name).priced().values()
        own = [one.usd_per_1000_rows for one in priced if one.release == loaded.release_id]
        champion = self._follower.current.get(name)
        is_champion = champion is not None and champion.release_id == loaded.release_id
        return row_nano_usd(own[0]) if own and not is_champion else self._config.row_nano_usd(name)

    def _most_row_nano_usd(self, name: str) -> int:
        """That a row may cost, whoever answers it."""
        config, own = self._config_of(name), self._config.row_nano_usd(name)
        costs = [row_nano_usd(one.usd_per_1000_rows) for one in config.priced().values()]
        return sum((own, *costs)) if config.cascade is not None else max((own, *costs))

    def versions(self, name: str) -> list[str]:
        """Ids of the releases that answer at an endpoint, the champion's first."""
        releases = _releases(self._follower.current, name)
        return list(dict.fromkeys(one.release_id for one in releases))

    def _find(self, key: str) -> Loaded:
        loaded = self._follower.current.get(key)
        if loaded is None:
            problems = self._follower.problems
            reason = problems.get(key) or problems.get(LEDGER) or "none was released yet"
            raise Unavailable(
                f"endpoint {key!r} has no release to answer with: {reason}",
                "release one: rayapp submit configs/releases/NAME.yaml; this server then answers "
                "by itself",
            )
        return loaded

    def _pool_of(self, endpoint: str) -> PoolConfig | None:
        return self._config.pools.get(self._config.placement_of(endpoint))

    def _release_id(self, key: str) -> str | None:
        loaded = self._follower.current.get(key)
        return None if loaded is None else loaded.release_id


def _releases(current: Mapping[str, Loaded], name: str) -> list[Loaded]:
    """Of an endpoint, the champion first."""
    keys = sorted(key for key in current if key == name or key.startswith(release_key(name, "")))
    return [current[key] for key in keys]


def _is_named(loaded: Loaded, version: str) -> bool:
    """By its id, or by as much of it as is shown to people."""
    is_short = len(version) >= SHORT_CHARS
    return loaded.release_id == version or (is_short and loaded.release_id.startswith(version))
