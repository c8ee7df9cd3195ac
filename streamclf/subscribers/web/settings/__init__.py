"""Change the configuration from the page: edits of the YAML file, previews of thresholds, tests of sources."""
