"""`python -m backends.common.fake_e2b --port P --root DIR`, also `crossfade fake-e2b`."""

from __future__ import annotations

import argparse
import socket
import sys
from pathlib import Path

import uvicorn

from backends.common.fake_e2b.app import fake_e2b_app
from backends.common.fake_e2b.machines import Cloud, Troubles


def main() -> int:
    """Serves until it is told to end."""
    parser = argparse.ArgumentParser(prog="crossfade fake-e2b", description=fake_e2b_app.__doc__)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--port", type=int, help="TCP port on 127.0.0.1")
    where.add_argument("--fd", type=int, help="an inherited socket that is bound")
    parser.add_argument("--root", type=Path, required=True, help="where sandboxes lie; removed at the end")
    parser.add_argument("--create-latency", type=float, default=0.0, metavar="S", help="seconds for a creation")
    parser.add_argument("--creations-per-second", type=float, help="more are answered 429")
    options = parser.parse_args()
    # Whoever reaches it can run anything here.
    sock = socket.socket(fileno=options.fd) if options.fd is not None else _bind(options.port)
    cloud = Cloud(options.root, Troubles(options.create_latency, options.creations_per_second))
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    sys.stderr.write(f"E2B_API_KEY=any E2B_API_URL={url} E2B_SANDBOX_URL={url}\n")
    config = uvicorn.Config(
        fake_e2b_app(cloud),
        # uvloop's children inherit the ends of each other's pipes: what one leaves running in the background would hold
        # the output of another open.
        loop="asyncio",
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=2,
    )
    try:
        uvicorn.Server(config).run(sockets=[sock])
    except KeyboardInterrupt:
        pass
    finally:
        cloud.close()
    return 0


def _bind(port: int) -> socket.socket:
    sock = socket.create_server(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


if __name__ == "__main__":
    sys.exit(main())
