"""The smallest real part: a program of the standard library that behaves as its arguments say.

`tiny_part.py BEHAVIOUR CHANNEL_FD [SOCKET_FD]`. Behaviours: `serve` (says that it is ready, accepts, answers each
connection with its process id, drains when told), `crash` (ends at once), `mute` (never says anything), `deaf` (ready,
but heeds neither SIGTERM nor its channel's requests to end), `crash_if:PATH` (`crash` when PATH exists, else `serve`).
"""

import json
import os
import select
import signal
import socket
import sys
from pathlib import Path


def say(channel: socket.socket, message: dict[str, object]) -> None:
    channel.sendall(json.dumps(message).encode() + b"\n")


def main() -> int:
    behaviour, channel = sys.argv[1], socket.socket(fileno=int(sys.argv[2]))
    listener = socket.socket(fileno=int(sys.argv[3])) if len(sys.argv) > 3 else None
    if behaviour.startswith("crash_if:"):
        behaviour = "crash" if Path(behaviour.removeprefix("crash_if:")).exists() else "serve"
    if behaviour == "crash":
        return 7
    if behaviour == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if listener is not None:
        listener.listen()
    if behaviour != "mute":
        say(channel, {"type": "counters", "counters": {"worker": "tiny", "pid": os.getpid()}})
        say(channel, {"type": "ready"})
    reading = [channel, *([listener] if listener else [])]
    while True:
        readable, _, _ = select.select(reading, [], [])
        if channel in readable:
            line = channel.recv(65536)
            if not line:
                return 1
            if b'"drain"' in line and behaviour != "deaf":
                say(channel, {"type": "counters", "counters": {"worker": "tiny", "last": os.getpid()}})
                return 0
            if b'"reload"' in line:
                say(channel, {"type": "counters", "counters": {"worker": "tiny", "reloaded": os.getpid()}})
        elif listener is not None:
            client, _ = listener.accept()
            with client:
                client.sendall(str(os.getpid()).encode())


if __name__ == "__main__":
    sys.exit(main())
