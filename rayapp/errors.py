"""Every error that rayapp raises on purpose, in three kinds.

    RayappError
    ├── UserError            exit 2: the input is wrong; a message, never a traceback
    │   ├── ConfigError          a YAML file, an override or an argument
    │   ├── ContractError        a data contract that cannot be understood
    │   ├── DataError            data that is missing, empty or of the wrong shape
    │   ├── WorkspaceError       the workspace cannot be read or written
    │   │   └── NotFoundError        it can, and there is no such thing in it
    │   └── RequestError         one HTTP request; carries the status and the parameter
    ├── Refused              exit 3: a gate, a policy or a proof said no; retrying will not help
    │   ├── LeakageRefused       a feature would not exist at prediction time
    │   ├── ContaminationRefused held-out questions occur in the training data
    │   ├── JudgeRefused         a judge's verdicts say nothing that could be relied on
    │   ├── GateRefused          an evaluation did not pass its gates
    │   ├── PointerMoved         somebody else moved a pointer of the ledger meanwhile
    │   │   └── ChampionMoved        by promoting
    │   └── TamperedError        an artefact is not what its digest or signature says
    ├── DeadlineExceeded     the time that a request was given is over
    └── Unavailable          retryable: the only kind that a retry may catch

Anything else is a bug and must fly. A message has four parts: what, the value, the limit (together
`what`) and the next step. The arguments of `__init__` go to `super().__init__` unchanged and in
order, because Ray rebuilds an exception from `args` on the other side of a process boundary.
"""


class RayappError(Exception):
    """what: one sentence with the value and the limit. next_step: what the reader can do about
    it."""

    exit_code = 1

    def __init__(self, what: str, next_step: str) -> None:
        super().__init__(what, next_step)
        self.what = what
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.what}\n  next: {self.next_step}"


class UserError(RayappError):
    exit_code = 2


class ConfigError(UserError):
    pass


class ContractError(UserError):
    pass


class DataError(UserError):
    pass


class WorkspaceError(UserError):
    pass


class NotFoundError(WorkspaceError):
    pass


class RequestError(UserError):
    """One refused HTTP request. kind is the error's `type` on the wire, param the field at fault,
    retry_after_s when another try may be accepted."""

    def __init__(
        self,
        what: str,
        next_step: str,
        status: int,
        kind: str,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(what, next_step)
        self.args = (what, next_step, status, kind, param, retry_after_s)
        self.retry_after_s = retry_after_s
        self.status = status
        self.kind = kind
        self.param = param


class OverRate(RequestError):
    """A caller sends more requests than it may: whatever it asked now would be refused."""


class Refused(RayappError):
    exit_code = 3


class LeakageRefused(Refused):
    pass


class ContaminationRefused(Refused):
    pass


class JudgeRefused(Refused):
    pass


class GateRefused(Refused):
    pass


class PointerMoved(Refused):
    pass


class ChampionMoved(PointerMoved):
    pass


class TamperedError(Refused):
    pass


class DeadlineExceeded(RayappError):
    def __init__(
        self,
        what: str = "there was no answer within the time that this request has",
        next_step: str = "give it more time in x-deadline-ms, up to what the server allows",
    ) -> None:
        super().__init__(what, next_step)


class Unavailable(RayappError):
    pass


class Overloaded(Unavailable):
    """There is more to do than can be done, whatever is asked."""


def public_reason(error: Exception) -> str:
    """Why something failed, for callers. Only what our own checks found, and what they are told
    anyway: what a driver or a store says may name hosts and users, so that is for the log, where
    whoever uses this writes it."""
    if isinstance(error, Refused | DataError | NotFoundError | Unavailable):
        return error.what
    return "the server's log says why"
