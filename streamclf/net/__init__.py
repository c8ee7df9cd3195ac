"""Provide what all sockets share: endpoints, keys, names, limits, backoff."""
