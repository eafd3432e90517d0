"""The data plane: receives a request, asks core where it goes, carries it there and the answer back."""
