"""The last screens of scripts/quickstart."""

from rayapp.cli.own_ledger import own_ledger, own_workspace
from rayapp.cli.terminal import show_titled, to_caller


def summary(figures: str, *, seconds: int) -> None:
    """Real rows asked, and what came out. FIGURES is what `submit --json` wrote."""
    from rayapp.cli import summary as summarizing
    from rayapp.cli.ask import ask as ask_rows
    from rayapp.cli.ask import show
    from rayapp.cli.head_state import running_head

    workspace = own_workspace()
    head = running_head(workspace)
    read = summarizing.read_figures(figures)
    answers = list(ask_rows(workspace, head.endpoint_url, read["endpoint"], 3))
    show(answers)
    show_titled(summarizing.summary(read, head, answers, workspace.mlflow_url))
    _show_seconds(seconds)


def first_chat(model: str, question: str, *, tenant: str, seconds: int) -> None:
    """A question asked of a language model, with a key for TENANT where one is needed, and how
    others ask it."""
    from rayapp.cli import first_chat as chatting
    from rayapp.cli.head_state import running_head

    workspace = own_workspace()
    head = running_head(workspace)
    key = chatting.key_for(head.endpoint_url, tenant, own_ledger())
    answer, cost_usd = chatting.chat(workspace, head, model, question, key)
    show_titled(chatting.summary(head, model, answer, cost_usd, key))
    for title, text in chatting.snippets(head, model, question, key).items():
        to_caller().print(f"\n{title}", style="bold")
        to_caller().print(text, markup=False)
    _show_seconds(seconds)


def _show_seconds(seconds: int) -> None:
    to_caller().print(f"\nDone in {seconds // 60} min {seconds % 60} s.", style="bold")
