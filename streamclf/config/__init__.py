"""Read and check the service's YAML file."""
