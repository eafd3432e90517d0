"""What both services need: the contract, git, files, sandboxes, the HTTP and MCP surfaces."""
