"""A request of a client or worker on its one hop to another node."""

from __future__ import annotations

from meshq.core import requests as ask
from meshq.core.messages import Call, CallAnswer
from meshq.core.ports import Transport
from meshq.errors import Unreachable
from meshq.wire import codec


async def forwarded(
    transport: Transport, to: str, request: ask.Request, *, timeout_s: float, owner: str = ""
) -> ask.Answer:
    """What another node answers.

    Args:
        transport: To that node.
        to: Its id.
        request: Any that it takes from nodes.
        timeout_s: How long it may take.
        owner: The credential whose bearer asks; empty for who has the cluster's key.

    Raises:
        Unreachable: It does not answer, or with something else. What it refuses with is raised, too.
    """
    call = Call(request=type(request).__name__, body=codec.encode_body(request), owner=owner)
    answer = await transport.request(to, call, timeout_s=timeout_s, bulk=True)
    if not isinstance(answer, CallAnswer):
        raise Unreachable(f"{to} answered a request with a {type(answer).__name__}")
    if answer.answer != ask.ANSWER_TO[type(request)].__name__:
        raise Unreachable(f"{to} answered a {call.request} with a {answer.answer}")
    decoded: ask.Answer = codec.decode_body(answer.answer, answer.body, codec.ANSWERS)
    return decoded
