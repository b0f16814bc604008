"""HAProxy keeps out what replicas would refuse anyway: one tenant's flood must not cost the others
the core that refusing takes.

A replica refuses a request of a tenant that is over its rate (429), and any where it is full (503),
for a third of what an answer costs; HAProxy for a twentieth. HAProxy knows no rates; it learns from
the answers, for each caller by itself: so many were answered lately, so many refused, so many did
it keep out. It passes on a quarter more than what is answered, and keeps out the rest by lot: the
adaptive throttling of "Handling Overload" (Site Reliability Engineering, 2016, chapter 21, where
clients do it, with K = 2). A caller is an API key at an address; whoever sends none, or none of
ours, is an address.

So a caller still gets all that its rate or the replicas give, replicas decide who is refused, and
HAProxy forgets within a few seconds of the last refusal. Who is refused less than FREE_PER_S times
a second is never kept out, and always gets the replica's own reason and its retry-after. How many
it kept out, the next request that it passes on tells in a header. (Requests with keys that were
made up get 401 from a replica each: those are not learned from.)
"""

import json

from rayapp.schemas.traffic import KEPT_OUT, KEY_MARK, REFUSED

WINDOW_MS = 250
"""HAProxy looks back so far. After a flood it takes some eight of these until a caller who then
asks for half of what there is gets all of it."""
FREE_PER_S = 20
"""Refusals of one caller before HAProxy keeps anything out."""
FREE = FREE_PER_S * WINDOW_MS // 1000
MORE = 4
"""It passes on a MOREth more than what is answered."""
NUM_CALLERS = 100_000
"""So many are remembered, those heard of last; 10 MB."""
_STORED = f"gpt(1),gpc(3),gpc_rate(3,{WINDOW_MS}ms)"
TABLE = f"""backend rayapp_callers
    stick-table type binary len 20 size {NUM_CALLERS} expire 10s store {_STORED}
"""
_KEY = f"req.hdr(authorization) -m sub {KEY_MARK}"
"""A credential of another form is none to a gateway that needs none; each that was made up would be
another caller here."""
_ANSWERED, _REFUSED, _KEPT = 0, 1, 2
"""The table's counters; gpt 0 is the status of the last refusal."""
_WHY = {
    429: ("rate_limited", "so many of your requests were refused that only some are let through"),
    503: ("unavailable", "there is more to answer than replicas keep pace with"),
}
NEXT = "try again after the seconds in retry-after"


def rules() -> list[str]:
    """Of a backend, to be preceded by TABLE."""
    return [
        "http-request set-log-level silent",
        f"http-request set-var(txn.key) 'req.hdr(authorization),word(-1,\" \")' if {{ {_KEY} }}",
        'http-request set-var-fmt(txn.caller) "%[var(txn.key)] %[src]"',
        "http-request track-sc0 var(txn.caller),sha1 table rayapp_callers",
        f"http-request del-header {KEPT_OUT}",
        f"http-request set-var(txn.kept) sc_gpc_rate({_KEPT},0)",
        f"http-request set-var(txn.refused) sc_gpc_rate({_REFUSED},0),add(txn.kept)",
        f"acl is_refused var(txn.refused) -m int gt {FREE}",
        f"http-request set-var(txn.answered) sc_gpc_rate({_ANSWERED},0) if is_refused",
        "http-request set-var(txn.all) var(txn.refused),add(txn.answered) if is_refused",
        f"http-request set-var(txn.free) var(txn.answered),div({MORE}),add({FREE}) if is_refused",
        "http-request set-var(txn.lot) rand(1000) if is_refused",
        "http-request set-var(txn.excess) var(txn.refused),sub(txn.free),mul(1000),div(txn.all),"
        "sub(txn.lot) if is_refused",
        "acl is_kept_out var(txn.excess) -m int gt 0",
        f"http-request sc-inc-gpc({_KEPT},0) if is_kept_out",
        "http-request set-header x-request-id %[uuid] if is_kept_out "
        "!{ req.hdr(x-request-id) -m found }",
        f"{_refusal(429)} if is_kept_out {{ sc_get_gpt(0,0) eq 429 }}",
        f"{_refusal(503)} if is_kept_out",
        f"http-request set-header {KEPT_OUT} %[sc_clr_gpc({_KEPT},0)] "
        f"if {{ sc_get_gpc({_KEPT},0) gt 0 }}",
        f"acl was_refused res.hdr({REFUSED}) -m found",
        f"http-response sc-inc-gpc({_ANSWERED},0) if !was_refused",
        f"http-response sc-inc-gpc({_REFUSED},0) if was_refused",
        "http-response sc-set-gpt(0,0) 429 if was_refused { status 429 }",
        "http-response sc-set-gpt(0,0) 503 if was_refused { status 503 }",
        f"http-response del-header {REFUSED}",
        "http-error status 503 content-type application/json hdr retry-after 1 string "
        f"'{_error('unavailable', 'no replica can be asked at the moment')}'",
    ]


def _refusal(status: int) -> str:
    return (
        f"http-request return status {status} content-type application/json hdr retry-after 1 "
        f"hdr x-request-id %[req.hdr(x-request-id)] lf-string '{_error(*_WHY[status])}'"
    )


def _error(kind: str, message: str) -> str:
    """As the gateways' (wire/http.py); `code` is for clients of language models, who may be the
    ones that are kept out."""
    error = {"type": kind, "message": message, "param": None, "next": NEXT, "code": kind}
    return json.dumps({"error": error})
