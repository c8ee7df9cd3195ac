"""Define the events that the service publishes, and their JSON."""
