"""Render the training data of the built-in models and measure how well they do."""
