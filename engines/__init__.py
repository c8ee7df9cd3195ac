"""The contract of a model and how it runs: bundles, the `Engine` protocol, one adapter per backend."""
