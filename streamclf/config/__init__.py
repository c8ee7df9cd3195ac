"""Define, read and check the configuration of the service: one YAML file."""
