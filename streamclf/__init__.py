"""Real-time streaming video classifier: capture, classify, journal, publish."""

__version__ = "0.1.0"
