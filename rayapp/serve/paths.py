"""Which path does what: those that are there once, and those of a model and of an endpoint."""

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import NamedTuple

from rayapp.errors import RequestError
from rayapp.families.inputs import shown
from rayapp.serve.call import Answer, Call

Handler = Callable[[Call], Awaitable[Answer]]
Route = Mapping[str, Handler]
"""What may be done at a path, by method."""
MAX_PATHS, MAX_CHARS = 4096, 256
"""So many distinct ones are remembered with what they mean, and none that is longer: callers choose
what they send."""
_MODEL = re.compile(r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?(?P<rest>/.*)?")
_SCORING = re.compile(r"/endpoints/(?P<name>[^/]+)(?P<rest>/.*)")
_OF_LANGUAGE = ("/chat/completions", "/completions", "/embeddings", "/models")
"""What OpenAI's clients ask below their base_url; another gateway answers that."""
_OF_ENDPOINTS = ("/v2/models/", "/endpoints/")


class Routed(NamedTuple):
    """name and version: of the endpoint that a path names. template: the path, with {name} and
    {version} in the place of these."""

    route: Route
    name: str | None
    version: str | None
    template: str


class Paths:
    """fixed: whole paths. of_model and of_endpoint: what follows /v2/models/NAME, with or without
    /versions/RELEASE, and /endpoints/NAME."""

    def __init__(
        self,
        fixed: Mapping[str, Route],
        of_model: Mapping[str, Route],
        of_endpoint: Mapping[str, Route],
    ) -> None:
        self._fixed, self._of_model, self._of_endpoint = fixed, of_model, of_endpoint
        self._known: dict[str, Routed] = {}

    def routed(self, path: str) -> Routed:
        """Raises RequestError 404."""
        routed = self._known.get(path)
        if routed is None:
            routed = self._look_up(path)
            if len(path) <= MAX_CHARS:
                if len(self._known) >= MAX_PATHS:
                    self._known.clear()
                self._known[path] = routed
        return routed

    def _look_up(self, path: str) -> Routed:
        fixed = self._fixed.get(path)
        if fixed is not None:
            return Routed(fixed, None, None, path)
        for pattern, routes, prefix in (
            (_MODEL, self._of_model, "/v2/models/{name}"),
            (_SCORING, self._of_endpoint, "/endpoints/{name}"),
        ):
            found = pattern.fullmatch(path)
            route = routes.get(found["rest"] or "") if found else None
            if found and route is not None:
                version = found.groupdict().get("version")
                middle = "" if version is None else "/versions/{version}"
                template = prefix + middle + (found["rest"] or "")
                return Routed(route, found["name"], version, template)
        next_step = "GET / lists the paths"
        if path.startswith(_OF_LANGUAGE):
            next_step = f"{next_step}; language models are under /v1, which a base_url ends with"
        raise RequestError(f"there is nothing at {shown(path)}", next_step, 404, "unknown_path")

    def __iter__(self) -> Iterator[str]:
        """As a person reads them, with what may be done at each."""
        for prefix, routes in (
            ("", self._fixed),
            ("/v2/models/NAME", self._of_model),
            ("/v2/models/NAME/versions/RELEASE", self._of_model),
            ("/endpoints/NAME", self._of_endpoint),
        ):
            for path, route in routes.items():
                yield from (f"{method} {prefix}{path}" for method in route)


def asks_a_model(path: str) -> bool:
    """Whether an endpoint's model is asked there, and not only what there is."""
    if path == "/invocations":
        return True
    return path.endswith(("/infer", "/invocations")) and path.startswith(_OF_ENDPOINTS)


def name_in(path: str) -> str | None:
    """The endpoint that a path names, though nothing may be at it."""
    found = _MODEL.fullmatch(path) or _SCORING.fullmatch(path)
    return None if found is None else found["name"]
