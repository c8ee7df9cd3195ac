"""Subscribe to events, replay them, and push frames: the part that other programs import."""
