"""The MCP half: one tool for each operation, on the official SDK. Stateless; answers may stream."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any, Final

from mcp.server import Server, ServerRequestContext
from mcp.server.transport_security import TransportSecuritySettings
from mcp_types import (
    INVALID_REQUEST,
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
    ToolAnnotations,
)
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from backends.common.contract import OPERATIONS, TOOLS, Operation
from backends.common.dispatch import Dispatcher, folded
from backends.common.errors import Code, ServiceError
from backends.common.rest_surface import BODY_LIMIT_BYTES

PATH: Final = "/mcp"
SERVER_NAME: Final = "git"
"""The same on both services: clients must not tell them apart."""


def mcp_app(dispatcher: Dispatcher, allowed_hosts: list[str]) -> Starlette:
    """The application that answers `/mcp`; its lifespan must run.

    Args:
        dispatcher: Performs the calls.
        allowed_hosts: Values of `Host` that are served; none = any, since the gateway keeps its client's.
    """

    async def list_tools(_: ServerRequestContext[Any, Any], __: PaginatedRequestParams | None) -> ListToolsResult:
        return ListToolsResult(tools=[_tool(operation) for operation in OPERATIONS.values()])

    async def call_tool(context: ServerRequestContext[Any, Any], params: CallToolRequestParams) -> CallToolResult:
        headers = folded(context.request.headers) if context.request is not None else {}
        operation = TOOLS.get(params.name)
        if operation is None:
            unknown = ServiceError(Code.NOT_FOUND, f"there is no tool {params.name[:100]}")
            return _result(unknown.content(), is_error=True)
        try:
            return _result(await dispatcher.call(operation, headers, params.arguments or {}), is_error=False)
        except ServiceError as exc:
            # Returned and not raised: the SDK would prefix the text of an exception.
            return _result(exc.content(), is_error=True)

    server = Server(SERVER_NAME, version=version("crossfade"), on_list_tools=list_tools, on_call_tool=call_tool)
    return server.streamable_http_app(
        streamable_http_path=PATH,
        stateless_http=True,
        json_response=False,
        max_request_body_size=BODY_LIMIT_BYTES,
        transport_security=TransportSecuritySettings(
            enable_dns_rebinding_protection=bool(allowed_hosts), allowed_hosts=allowed_hosts
        ),
    )


def refusing_route() -> Route:
    """What `/mcp` says to other methods than POST: the SDK would hold a stateless client's GET open for nothing."""

    async def refuse(_: Request) -> Response:
        message = "this server keeps no sessions; use POST"
        error = {
            "code": INVALID_REQUEST,
            "message": message,
            "data": {"code": "method_not_allowed", "retryable": False},
        }
        content = {"jsonrpc": "2.0", "id": None, "error": error}
        return JSONResponse(content, status_code=405, headers={"Allow": "POST"})

    return Route(PATH, refuse, methods=["GET", "HEAD", "DELETE", "PUT", "PATCH", "OPTIONS"])


def _tool(operation: Operation) -> Tool:
    schema = operation.arguments.model_json_schema()
    schema.pop("description", None)
    answer = operation.result.model_json_schema(mode="serialization")
    # A member with a default may be missing from an answer.
    answer["required"] = [name for name, field in operation.result.model_fields.items() if field.is_required()]
    return Tool(
        name=operation.tool,
        description=operation.summary,
        input_schema=schema,
        output_schema=answer,
        annotations=ToolAnnotations(
            read_only_hint=not operation.is_write,
            destructive_hint=operation.is_destructive,
            idempotent_hint=operation.is_idempotent,
            open_world_hint=operation.leaves_sandbox,
        ),
    )


def _result(content: dict[str, Any], *, is_error: bool) -> CallToolResult:
    text = TextContent(type="text", text=json.dumps(content, separators=(",", ":")))
    return CallToolResult(content=[text], structured_content=content, is_error=is_error)
