"""The demo: agents do real git work through the gateway while shares move, and everything is checked.

Start reading at `director`. It knows the gateway as a client and the control API as an operator would.
"""
