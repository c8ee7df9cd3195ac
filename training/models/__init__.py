"""Models, one per file; each gives an `encoder` and a `head`."""
