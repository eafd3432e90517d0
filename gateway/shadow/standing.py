"""What the policy in force says of a read by now: it was served a while ago."""

from __future__ import annotations

from collections.abc import Callable

from gateway.core.snapshot import Plan
from gateway.ports import ServedRead


class Standing:
    """Asks the policy in force, each time."""

    def __init__(self, plan_of: Callable[[str], Plan | None]) -> None:
        """Asks nothing yet.

        Args:
            plan_of: The plan in force of an operation; None: there is none.
        """
        self._plan_of = plan_of

    def is_wanted(self, operation: str) -> bool:
        """Whether an operation is still mirrored: a kill is not outrun by who waits."""
        plan = self._plan_of(operation)
        return plan is not None and plan.mirror_limit > 0

    def is_same_stage(self, read: ServedRead) -> bool:
        """Whether a read's operation is in the stage in which it was served: else the sides may hold other things."""
        plan = self._plan_of(read.plan.operation.name)
        return plan is not None and plan.stage is read.plan.stage

    def holder(self, read: ServedRead) -> Callable[[], bool]:
        """For `UpstreamRequest.holds`: whether a copy is still wanted."""
        return lambda: self.is_wanted(read.plan.operation.name)
