"""What was measured of a language model, by which it may be chosen."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rayapp.config.models import ModelObjectiveConfig
from rayapp.errors import Unavailable
from rayapp.schemas.model import LanguageSchema
from rayapp.schemas.prompt import Prompt
from rayapp.schemas.record import short
from rayapp.schemas.release import HIGHER_IS_BETTER_IN_WORDS, Estimate, Evaluation
from rayapp.serve.endpoints.alike import turned, why_poor, worse_end
from rayapp.serve.language.adapters import Adapted
from rayapp.serve.language.ask import TextAsk, TextReply
from rayapp.serve.language.served import Served


@dataclass(frozen=True)
class Standing:
    """which: in words. unmeasured: why nothing measured it, where nothing did. estimates: over all
    rows of the evaluation that did; else none. is_higher_better: by metric. language: how it was
    asked then."""

    release_id: str
    which: str
    unmeasured: str
    estimates: tuple[Estimate, ...] = ()
    is_higher_better: Mapping[str, bool | None] = field(default_factory=dict)
    language: LanguageSchema | None = None

    def why_unmeasured(self) -> str | None:
        return None if self.estimates else f"{self.which}: {self.unmeasured}"


class Standings:
    """Of models that are chosen among, by name. An adapter's is from its own evaluation. Weights as
    they are were measured beside each adapter of them, on the same rows and with its prompt: theirs
    is from the first of these models that is one. find: who answers now, or raises Unavailable."""

    def __init__(self, models: Sequence[str], find: Callable[[str], Served]) -> None:
        self._models = tuple(models)
        self._find = find
        self._known: dict[str, tuple[tuple[str, str | None], Standing]] = {}

    def of(self, model: str) -> Standing | None:
        """The same object while it stays the same; None while nobody answers."""
        served = self._served(model)
        if served is None:
            return None
        by = served.adapted or self._measured_by(served)
        key = served.release_id, None if by is None else by.release_id
        known = self._known.get(model)
        if known is None or known[0] != key:
            known = self._known[model] = key, _standing(served, by, self._models)
        return known[1]

    def prompt(self, model: str) -> Prompt | None:
        """How it was asked when it was measured."""
        standing = self.of(model)
        return None if standing is None or standing.language is None else standing.language.chat

    def _served(self, model: str) -> Served | None:
        try:
            return self._find(model)
        except Unavailable:
            return None

    def _measured_by(self, served: Served) -> Adapted | None:
        """An adapter of these weights whose evaluation measured them."""
        for model in self._models:
            other = self._served(model)
            adapted = None if other is None else other.adapted
            if adapted is None or adapted.language.base_digest != served.engine.weights.digest:
                continue
            if adapted.evaluation is not None and adapted.evaluation.untuned:
                return adapted
        return None


def _standing(served: Served, by: Adapted | None, models: Sequence[str]) -> Standing:
    """by: whose evaluation measured it. models: those that are chosen among."""
    if served.adapted is not None:
        which = f"release {short(served.release_id)}"
        unmeasured = "no sealed evaluation measured it; next: release again"
    else:
        weights = served.engine.weights
        which = f"weights {weights.name} ({short(weights.digest)})"
        unmeasured = (
            "no sealed evaluation measured them: an adapter's measures the weights beneath it too, "
            f"but none of the models chosen among here ({', '.join(models)}) is an adapter of "
            "these weights with such an evaluation; next: give one of them the `endpoint` of a "
            "release for these weights, which `adapters: true` alone does not do"
        )
    found = Standing(served.release_id, which, unmeasured)
    if by is None or by.evaluation is None:
        return found
    evaluation = by.evaluation
    is_own = by is served.adapted
    return replace(
        found,
        estimates=evaluation.overall.estimates if is_own else evaluation.untuned,
        is_higher_better=_directions(evaluation),
        language=by.language,
    )


def _directions(evaluation: Evaluation) -> Mapping[str, bool | None]:
    declared = {metric.name: metric.higher_is_better for metric in evaluation.metrics}
    return {**declared, **HIGHER_IS_BETTER_IN_WORDS}


class TextTerms:
    """What an objective goes by where answers are in words (endpoints.objective.Terms)."""

    def __init__(self, config: ModelObjectiveConfig) -> None:
        self._config = config

    def quality(self, loaded: Standing) -> float:
        return turned(*self._measured(loaded))

    def why_poor(self, loaded: Standing) -> str | None:
        metric = self._config.metric
        unmeasured = loaded.why_unmeasured()
        if unmeasured is not None:
            return unmeasured
        bound, is_higher_better = self._measured(loaded)
        if loaded.is_higher_better.get(metric) is None:
            return f"{loaded.which}: its evaluation has no {metric} that can be better or worse"
        limit = self._config.min_quality
        return why_poor(loaded.which, metric, bound, limit, is_higher_better)

    def _measured(self, loaded: Standing) -> tuple[float | None, bool]:
        """The worse end of the metric's interval, and which way it is better."""
        metric = self._config.metric
        is_higher_better = loaded.is_higher_better.get(metric)
        if is_higher_better is None:
            return None, True
        return worse_end(loaded.estimates, metric, is_higher_better), is_higher_better

    def why_unlike(self, loaded: Standing, champion: Standing | None) -> str | None:
        """Whether they do the same was looked at when they were deployed (language.fitting)."""
        return None

    async def may_choose(self, ask: TextAsk, champion: Standing | None) -> bool:
        return True

    def is_timed(self, ask: TextAsk) -> bool:
        return ask.asked.is_stream == (self._config.latency == "first_token")

    def told(self, reply: TextReply, nano_usd: int, degraded: str | None) -> TextReply:
        if degraded is None or reply.degraded is not None:
            return reply
        return reply.instead(degraded)
