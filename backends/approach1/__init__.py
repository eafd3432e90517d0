"""The old side: the simple MCP git server. One sandbox for each agent and task, locks in memory, one instance."""
