"""Teach a model from a few labelled films: features of a base bundle's encoder, a fitted head, and honest figures."""
