"""Whether models can answer for each other, as far as their weights tell it when they are
deployed."""

from collections.abc import Mapping

from rayapp.config.language import LanguageConfig
from rayapp.errors import ConfigError
from rayapp.schemas.language import WeightsRef


def require_fitting(config: LanguageConfig, weights: Mapping[str, WeightsRef]) -> None:
    """weights: by engine. Raises ConfigError where one who answers for a name does something else
    than the name's own model, or takes less, where callers cannot know that it will be asked."""
    for name, model in config.models.items():
        task = weights[model.engine].task
        for other in sorted(model.others()):
            engine = config.models[other].engine
            if weights[engine].task != task:
                raise ConfigError(
                    f"`models`: {other} cannot answer for {name}: its weights "
                    f"{weights[engine].name} are to {weights[engine].task}, those of {name} to "
                    f"{task}",
                    "name another model",
                )
        if task == "embed" and model.priced():
            raise ConfigError(
                f"`models`: {name} makes vectors of texts, of which no quality is measured",
                "leave `objective` and `cascade` to models that write text",
            )
        own = config.engines[model.engine].context_of(weights[model.engine])
        for other in sorted(model.unseen()):
            engine = config.models[other].engine
            theirs = config.engines[engine].context_of(weights[engine])
            if theirs < own:
                raise ConfigError(
                    f"`models`: {other} takes {theirs} tokens, {name} {own}: some callers would be "
                    "refused for who happens to answer",
                    f"set `max_context_tokens` of engine {model.engine} to no more than {theirs}",
                )
