"""HTML pages: complete in themselves, with one look for all."""

from functools import cache
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


def page(package: str, template: str, **values: Any) -> str:
    """A complete document. template: in the package's folder `templates`, an extension of
    `base.html`. Values are shown as text; what is HTML says so there."""
    return _environment(package).get_template(template).render(values)


@cache
def _environment(package: str) -> Environment:
    return Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("rayapp")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
