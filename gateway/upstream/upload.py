"""Sends a streamed request body as fast as the side takes it, while the answer may already be arriving.

Owns the one task that an exchange with a streamed body needs. It must not know what the answer is.
"""

from __future__ import annotations

import asyncio

from gateway.core.model import ErrorCode
from gateway.errors import Phase, UpstreamError
from gateway.ports import StreamedBody
from gateway.upstream.connection import Connection


class Upload:
    """A request body on its way."""

    __slots__ = ("_body", "_connection", "_instance", "_is_finished", "_is_stopping", "_loop", "_task")

    def __init__(
        self, connection: Connection, body: StreamedBody, instance: str, tasks: set[asyncio.Task[None]]
    ) -> None:
        """Starts sending.

        Args:
            connection: On which the exchange was started.
            body: What to send.
            instance: Name of the instance, for errors.
            tasks: Keeps the reference while the upload runs.
        """
        self._connection = connection
        self._body = body
        self._instance = instance
        self._is_finished = False
        self._is_stopping = False
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._run(), name=f"upload to {instance}")
        tasks.add(self._task)
        self._task.add_done_callback(tasks.discard)
        self._task.add_done_callback(self._ended)

    def stop(self) -> None:
        """Sends no more and closes the source. Idempotent, also after the end."""
        if not self._task.done() and not self._is_stopping:
            self._is_stopping = True
            # Not at once: a task cancelled before its first step never runs, and nobody would close the source.
            self._loop.call_soon(self._task.cancel)

    async def _run(self) -> None:
        body, connection = self._body, self._connection
        sent = 0
        try:
            async for chunk in body.chunks:
                sent += len(chunk)
                if body.length is not None and sent > body.length:
                    raise self._wrong_length("longer than declared")
                if chunk:
                    connection.write_body(chunk)
                    await connection.drain()
                if self._is_stopping:
                    # The cancellation is on its way; a source that never suspends would not let it through.
                    return
            if body.length is not None and sent < body.length:
                raise self._wrong_length("shorter than declared")
            self._is_finished = True
            connection.finish_body()
        finally:
            close = getattr(body.chunks, "aclose", None)
            if close is not None:
                await close()

    def _wrong_length(self, detail: str) -> UpstreamError:
        return self._error(ErrorCode.BAD_REQUEST, f"request body {detail}")

    def _error(self, code: ErrorCode, detail: str) -> UpstreamError:
        return UpstreamError(code, upstream=self._instance, phase=Phase.SEND, detail=detail, sent=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if self._is_finished or self._is_stopping:
            # The connection may carry another exchange by now.
            if error is not None:
                self._loop.call_exception_handler({"message": "closing a request body failed", "exception": error})
        elif error is not None:
            # Whatever the source raised reaches whoever waits for the answer.
            self._connection.fail_upload(error)
        elif task.cancelled():
            self._connection.fail_upload(self._error(ErrorCode.UPSTREAM_RESET, "upload cancelled"))
