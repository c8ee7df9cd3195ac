"""Run `streamclf init`: ask for cameras and receivers, try them, and write the configuration of a service."""
