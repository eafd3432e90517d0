"""The HTTP/1.1 client made for proxying: connections, pools, choice of an instance."""
