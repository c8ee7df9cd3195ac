"""Post events to an HTTP endpoint, signed and retried."""
