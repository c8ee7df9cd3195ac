"""Publish events to an MQTT broker, and describe them to Home Assistant."""
