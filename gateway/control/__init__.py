"""The control API: status, changes of policy, tokens, audit. It shows and stores; it never decides a request."""
