"""Classify an archive: thousands of films, on all cores or on a cluster, resumable, each film once."""
