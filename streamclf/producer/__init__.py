"""Hand events to the hub, which acknowledges each after it is journalled."""
