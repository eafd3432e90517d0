"""The thin commands: they parse, call the control API and print."""
