"""Subscribers: each an ordinary client of the bus."""
