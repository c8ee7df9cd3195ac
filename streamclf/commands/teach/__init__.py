"""Run `streamclf teach`: its progress and result in a terminal and as JSON, and its report."""
