"""Every name in Redis, in one place."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.core.model import Scope


@dataclass(frozen=True, slots=True)
class Keys:
    """Names of one migration's keys.

    Attributes:
        migration: Its name.
    """

    migration: str

    @property
    def policy(self) -> str:
        """Hash: `lineage`, `epoch`, `body` (JSON) and one `kill:<scope>` (JSON) for each latch."""
        return f"cf:{self.migration}:policy"

    @property
    def policy_changed(self) -> str:
        """Channel: the new epoch. A hint only; the hash is the truth."""
        return f"cf:{self.migration}:policy:changed"

    @property
    def audit(self) -> str:
        """Stream: `entry` (JSON), newest last."""
        return f"cf:{self.migration}:audit"

    @property
    def trips(self) -> str:
        """List: JSON of what detectors saw when they tripped, newest first."""
        return f"cf:{self.migration}:trips"

    def trip_parts(self, trip: str) -> str:
        """Hash: worker -> JSON of what it saw, for a trip that another one made."""
        return f"cf:{self.migration}:trips:{trip}"

    def told(self, action: str, target: str) -> str:
        """String: when an alarm was told; absent once it may be told again."""
        return f"cf:{self.migration}:told:{action}:{target}"

    def signature(self, digest: str) -> str:
        """String: there while a signature may not be used again."""
        return f"cf:{self.migration}:signature:{digest}"

    def notified(self, target: str) -> str:
        """String: the audit entry that a target of notifications was told last."""
        return f"cf:{self.migration}:notified:{target}"

    def notifier(self, target: str) -> str:
        """String: the process that tells a target, for as long as it is there."""
        return f"cf:{self.migration}:notifier:{target}"

    @property
    def tokens(self) -> str:
        """Hash: SHA-256 of a token -> JSON."""
        return f"cf:{self.migration}:tokens"

    @property
    def counters(self) -> str:
        """Hash: worker id -> JSON of cumulative counters."""
        return f"cf:{self.migration}:counters"

    @property
    def noise_counts(self) -> str:
        """Hash: worker id and operation -> JSON of what was seen of its noise."""
        return f"cf:{self.migration}:noise-counts"

    @property
    def signals(self) -> str:
        """Hash: process -> JSON of a growing number and cumulative counts for detectors."""
        return f"cf:{self.migration}:signals"

    @property
    def histograms(self) -> str:
        """Hash: operation and process -> cumulative histograms of both sides, packed (`core.detect.reports`)."""
        return f"cf:{self.migration}:histograms"

    @property
    def learnt(self) -> str:
        """Hash: operation -> JSON of what detectors learnt and need after a restart."""
        return f"cf:{self.migration}:learnt"

    @property
    def evidence(self) -> str:
        """Sorted set: signature of a difference, by when it was last seen."""
        return f"cf:{self.migration}:evidence"

    def evidence_of(self, signature: str) -> str:
        """Hash: `what` (JSON), counts, `first`, `last`, `requests` (JSON)."""
        return f"cf:{self.migration}:evidence:{signature}"

    def evidence_mark(self, writer: str) -> str:
        """String: number of the last write of a process, so that none counts twice."""
        return f"cf:{self.migration}:evidence:mark:{writer}"

    @property
    def evidence_secret(self) -> str:
        """String: key of the digests in evidence."""
        return f"cf:{self.migration}:evidence:secret"

    @property
    def noise(self) -> str:
        """String: JSON of the accepted relaxations, with a version."""
        return f"cf:{self.migration}:noise"

    @property
    def drill(self) -> str:
        """String: JSON of the drill that is on, or absent."""
        return f"cf:{self.migration}:drill"

    def drill_notes(self, drill: str) -> str:
        """Hash: worker -> JSON of what it saw of a drill."""
        return f"cf:{self.migration}:drill:{drill}"

    def drill_holder(self, drill: str) -> str:
        """String: the control process that runs a drill; expires when that is gone."""
        return f"cf:{self.migration}:drill:{drill}:holder"

    @property
    def drill_debt(self) -> str:
        """String: which debt of drills the audit has been told of last."""
        return f"cf:{self.migration}:drill:debt"

    @property
    def drill_reports(self) -> str:
        """String: JSON list of reports, newest first."""
        return f"cf:{self.migration}:drills"

    @property
    def offers(self) -> str:
        """Hash: process id -> JSON of the policy it remembers, after Redis lost it."""
        return f"cf:{self.migration}:offers"

    @property
    def break_glass_prefix(self) -> str:
        """What every break-glass key begins with."""
        return f"cf:{self.migration}:kill:"

    def break_glass(self, scope: Scope) -> str:
        """String: the reason of a kill that needs no Crossfade process but the gateways."""
        return f"{self.break_glass_prefix}{scope}"
