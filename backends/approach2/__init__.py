"""The new side: the service layer. A warm pool of sandboxes, a table that names them, any request on any of them."""
