"""Store a model as a bundle, open it on an inference backend, and verify it against PyTorch's numbers."""

from engines.telemetry import switch_off_telemetry

switch_off_telemetry()  # here, because each module that imports an inference library is in this package or imports it
