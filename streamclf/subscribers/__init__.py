"""Deliver events to other systems and people: log, MQTT, webhook, metrics, status and watch."""
