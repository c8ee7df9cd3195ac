"""Start, watch and reconfigure every process of the service."""
