"""Share the rules for sockets: endpoints, keys, names, limits, backoff."""
