"""The shape of `config/gateway.yaml`: how one gateway runs, whatever it migrates.

The keys of `edge`, `upstream` and `drain` are the fields of the dataclasses of the parts that they bound, and their
defaults are the same. Where values come from is the business of `gateway_sources`.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, Field, PlainSerializer

from gateway.core.model import Deadlines
from gateway.settings.migration_file import SECONDS_LIMIT
from gateway.settings.redis_url import RedisUrl
from gateway.settings.validation import Shape

_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


def _bind_host(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return str(ip_address(value))
    except ValueError:
        if not _HOST.fullmatch(value):
            raise ValueError("is no address to listen on; write 127.0.0.1, 0.0.0.0, ::1 or a host name") from None
        return value


def _redis_url(value: object) -> object:
    return RedisUrl.parse(value) if isinstance(value, str) else value


def _path(value: object) -> object:
    if value == "":
        raise ValueError("is empty; write a directory")
    return Path(value) if isinstance(value, str) else value


Host = Annotated[str, BeforeValidator(_bind_host)]
Port = Annotated[int, Field(ge=0, le=65_535)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Bytes = Annotated[int, Field(ge=1024, le=1 << 30)]
Seconds = Annotated[float, Field(gt=0, le=SECONDS_LIMIT)]
Pause = Annotated[float, Field(ge=0, le=SECONDS_LIMIT)]


class EdgeShape(Shape):
    """What one worker accepts from clients; `gateway.edge.limits.EdgeLimits`."""

    header_bytes: Bytes = 64 * 1024
    header_fields: Count = 100
    target_bytes: Bytes = 16 * 1024
    header_timeout_s: Seconds = 10.0
    body_idle_timeout_s: Seconds = 30.0
    write_idle_timeout_s: Seconds = 60.0
    tunnel_idle_s: Seconds = 3600.0
    keep_alive_s: Seconds = 75.0
    chunk_overhead_bytes: Bytes = 16 * 1024
    in_flight: Count = 4096
    connections: Count = 20_000
    connections_per_address: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    buffer_bytes: Bytes = 64 * 1024


class TlsShape(Shape):
    """TLS on the data port; `gateway.edge.tls.PortTls`. Both or none."""

    cert_file: Annotated[Path | None, BeforeValidator(_path)] = None
    key_file: Annotated[Path | None, BeforeValidator(_path)] = None


class EjectionShape(Shape):
    """When an instance is taken out of the choice; `gateway.upstream.limits.EjectionLimits`."""

    after_failures: Count = 5
    base_s: Seconds = 1.0
    max_s: Seconds = 30.0


class UpstreamShape(Shape):
    """What one worker spends on each side; `gateway.upstream.limits.UpstreamLimits`."""

    connections: Count = 256
    waiting: Annotated[int, Field(ge=0, le=1_000_000)] = 1024
    waiting_s: Seconds = 5.0
    idle_connections: Annotated[int, Field(ge=0, le=1_000_000)] = 256
    idle_timeout_s: Seconds = 30.0
    header_bytes: Bytes = 64 * 1024
    header_fields: Count = 200
    interim_answers: Annotated[int, Field(ge=0, le=1000)] = 16
    chunk_overhead_bytes: Bytes = 16 * 1024
    body_buffer_bytes: Bytes = 64 * 1024
    resolve_s: Seconds = 30.0
    ejection: EjectionShape = EjectionShape()


class ShadowShape(Shape):
    """What one worker spends on mirrored reads; `gateway.shadow.limits.ShadowLimits`."""

    queue: Count = 1000
    queue_bytes: Bytes = 32 << 20
    concurrency: Count = 64
    deadline_s: Seconds = 30.0
    waiting_s: Seconds = 5.0
    body_bytes: Bytes = 1 << 20
    compare_s: Seconds = 10.0
    lag_s: Seconds = 5.0
    rereads: Count = 256
    noise_percent: Annotated[float, Field(ge=0, le=100)] = 5.0


class PhasesShape(Shape):
    """Deadlines by phase, for what the migration file does not set; null = unbounded."""

    connect_s: Seconds = 5.0
    send_s: Seconds = 30.0
    first_byte_s: Seconds | None = 60.0
    between_bytes_s: Seconds | None = 300.0
    total_s: Seconds | None = None


class DrainShape(Shape):
    """How a worker leaves; `gateway.edge.server.DrainSettings`."""

    grace_s: Pause = 30.0
    linger_s: Pause = 5.0


class LogShape(Shape):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "json"


class ResponseHeadersShape(Shape):
    """Which fields an answer gets on its way to the client."""

    side: bool = True
    request_id: bool = True


class GatewaySettings(Shape):
    """How one gateway runs.

    Attributes:
        host: Address of the data port.
        port: The data port; 0 = a free one.
        control_host: Address of the control API.
        control_port: Its port.
        ops_host: Address of health and metrics.
        ops_port: Its port.
        insecure_control: Whether control may listen beyond loopback without TLS.
        workers: Gateway processes on the data port.
        safety_net: Whether a read that new has failed is served by old, where both work on one store.
        express: Whether bounded exchanges take the express lane.
        data_dir: Where Crossfade keeps what must survive a restart.
        redis_url: Where Redis is; falsy = embedded.
        tls: Certificate of the data port; without one it speaks plain HTTP.
        edge: Bounds of the client side.
        upstream: Bounds of the sides' clients.
        shadow: Bounds of mirrored reads.
        deadlines: Defaults for the phases of an exchange.
        drain: How a worker leaves.
        log: Logging.
        response_headers: What is added to answers: `Crossfade-Side`, `X-Request-Id`.
    """

    host: Host = "127.0.0.1"
    port: Port = 8080
    control_host: Host = "127.0.0.1"
    control_port: Port = 8081
    ops_host: Host = "127.0.0.1"
    ops_port: Port = 8082
    insecure_control: bool = False
    workers: Annotated[int, Field(ge=1, le=256)] = 2
    safety_net: bool = True
    express: Literal["on", "off"] = "on"
    data_dir: Annotated[Path, BeforeValidator(_path)] = Path(".crossfade")
    redis_url: Annotated[RedisUrl, BeforeValidator(_redis_url), PlainSerializer(str)] = RedisUrl()
    tls: TlsShape = TlsShape()
    edge: EdgeShape = EdgeShape()
    upstream: UpstreamShape = UpstreamShape()
    shadow: ShadowShape = ShadowShape()
    deadlines: PhasesShape = PhasesShape()
    drain: DrainShape = DrainShape()
    log: LogShape = LogShape()
    response_headers: ResponseHeadersShape = ResponseHeadersShape()

    @property
    def default_deadlines(self) -> Deadlines:
        """The deadlines as `load_migration` takes them."""
        return Deadlines(**self.deadlines.model_dump())
