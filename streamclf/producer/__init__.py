"""Hand events to the hub: hold each one until the hub confirms that it is journalled."""
