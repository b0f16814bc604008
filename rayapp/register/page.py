"""The model card as one self-contained HTML page: for reading, printing and filing."""

import yaml
from markdown_it import MarkdownIt

from rayapp.pages import page


def card_page_uri(card_uri: str) -> str:
    """Where the page of a card lies. card_uri: of its Markdown."""
    return f"{card_uri.removesuffix('.md')}.html"


def render_card_html(card: str) -> str:
    """A complete HTML document of a card as `render_card` made it.

    HTML inside the card is shown as text, never run: its words come from YAML files.
    """
    _, front, body = card.split("---\n", 2)
    metadata = yaml.safe_load(front)
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    return page(
        "rayapp.register",
        "card.html",
        title=body.strip().partition("\n")[0].removeprefix("# "),
        tags=[metadata["pipeline_tag"], *metadata["tags"], metadata["license"]],
        body=markdown.render(body),
    )
