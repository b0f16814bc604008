"""Every error crosses a process boundary as itself, with its fields, and prints what to do."""

import inspect
import pickle

import pytest

from rayapp import errors

CLASSES = [
    cls
    for _, cls in inspect.getmembers(errors, inspect.isclass)
    if issubclass(cls, errors.RayappError)
]


def _made(cls: type[errors.RayappError]) -> errors.RayappError:
    if issubclass(cls, errors.RequestError):
        return cls("rows is 0, the least is 1", "send a row", 400, "bad", "rows")
    return cls("depth is 99, the most is 16", "lower it")


@pytest.mark.parametrize("cls", CLASSES)
def test_pickles_with_its_fields(cls: type[errors.RayappError]) -> None:
    error = _made(cls)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    assert vars(again) == vars(error)
    assert str(again) == str(error)


@pytest.mark.parametrize("cls", CLASSES)
def test_prints_the_next_step(cls: type[errors.RayappError]) -> None:
    error = _made(cls)
    assert str(error) == f"{error.what}\n  next: {error.next_step}"


@pytest.mark.parametrize("cls", CLASSES)
def test_exit_code_follows_from_the_kind(cls: type[errors.RayappError]) -> None:
    kinds = {errors.UserError: 2, errors.Refused: 3}
    wanted = next((code for kind, code in kinds.items() if issubclass(cls, kind)), 1)
    assert cls.exit_code == wanted


@pytest.mark.parametrize(
    ("error", "is_told"),
    [
        (errors.TamperedError("manifest was changed", "restore it"), True),
        (errors.DataError("the bundle gave no scores", "train again"), True),
        (errors.NotFoundError("there is nothing at x/manifest.json", "check it"), True),
        (errors.Unavailable("a model needs 50 bytes more", "raise max_model_bytes"), True),
        (errors.WorkspaceError("ledger postgresql://ann@db: refused", "check it"), False),
        (OSError("connection to db refused for user ann"), False),
    ],
)
def test_only_what_our_own_checks_found_is_told_to_callers(error: Exception, is_told: bool) -> None:
    wanted = str(error).split("\n")[0] if is_told else "the server's log says why"
    assert errors.public_reason(error) == wanted
