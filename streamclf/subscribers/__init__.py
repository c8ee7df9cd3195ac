"""Hand events to other systems: log, MQTT, webhook, metrics, terminal, screen."""
