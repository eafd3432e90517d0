"""How two answers to one read are compared. Pure: bytes and rules in, a verdict out.

`answers` compares whole answers and is where to begin; `tree` walks two JSON values side by side under `rules`; `noise`
learns which parts differ between two answers of one side; `agreement` is the figure that comes of it.
"""
