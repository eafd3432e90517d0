"""The HTTP/1.1 client made for proxying: connections, pools, choice of an instance.

Start reading at `side_client`. It must not know stages, operations or ASGI.
"""

from gateway.upstream.limits import EjectionLimits, UpstreamLimits
from gateway.upstream.side_client import SideUpstream
from gateway.upstream.stats import DropReason, UpstreamStats

__all__ = ["DropReason", "EjectionLimits", "SideUpstream", "UpstreamLimits", "UpstreamStats"]
