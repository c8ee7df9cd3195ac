"""Teach a model on the page: examples, training in a child process, and going live."""
