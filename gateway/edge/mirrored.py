"""Which reads that are served are mirrored as well, as far as one request tells, and what the shadow is told of them.

It must not know what the shadow does.
"""

from __future__ import annotations

from gateway.core.mirroring import Unmirrored, is_conditional, is_sampled
from gateway.core.model import Side
from gateway.core.snapshot import Plan
from gateway.edge.deciding import Deciding
from gateway.ports import ServedRead, StreamedBody, UpstreamRequest


def why_unmirrored(deciding: Deciding, plan: Plan, request: UpstreamRequest) -> Unmirrored | None:
    """Why a read is not mirrored, or None: it is.

    Args:
        deciding: The request's.
        plan: Of its operation.
        request: As it goes to the side that was decided for.
    """
    if plan.unmirrored is not None:
        return plan.unmirrored
    assert deciding.snapshot is not None
    migration = deciding.snapshot.definition.migration
    if not plan.mirror_limit or not is_sampled(migration, deciding.request_id, plan.mirror_limit):
        return Unmirrored.NOT_SAMPLED
    if request.upgrade is not None:
        return Unmirrored.UPGRADE
    if isinstance(request.body, StreamedBody):
        return Unmirrored.STREAMING
    if not request.may_retry:
        return Unmirrored.UNCONFIRMED
    if any(is_conditional(name) for name, _ in request.headers):
        return Unmirrored.CONDITIONAL
    return None


def served_read(deciding: Deciding, plan: Plan, side: Side, request: UpstreamRequest) -> ServedRead:
    """A read for the shadow, from which it makes its copy.

    Args:
        deciding: The request's.
        plan: Of its operation.
        side: Who is asked.
        request: As it goes there.
    """
    assert deciding.snapshot is not None
    assert deciding.incoming is not None
    client_host = next((value for name, value in deciding.incoming.headers if name == b"host"), None)
    return ServedRead(
        plan=plan,
        side=side,
        key=deciding.key,
        request_id=deciding.request_id,
        is_mcp=deciding.is_mcp,
        request=request,
        hosts=deciding.snapshot.hosts,
        client_host=client_host,
    )
