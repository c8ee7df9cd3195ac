"""Protect the hub's sockets: CURVE keys, floods of subscriptions, too many connections."""
