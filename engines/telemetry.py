"""Keep the inference libraries from reporting their use: no program of this project contacts another machine by itself.

`import openvino` imports `openvino_telemetry`, which writes a client id to ~/intel and posts usage events to Google
Analytics, unless a file in the home directory forbids it. Without that package OpenVINO uses a stub of its own.
ONNX Runtime 1.29 and later writes a device id to ~/.cache/Microsoft and posts events to Microsoft, unless an
environment variable forbids it before the import.
"""

from __future__ import annotations

import os
import sys
from typing import Final

_SWITCHES: Final = {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
"""Variables of ONNX Runtime, and of the Hugging Face hub, from which `timm` downloads weights. Child processes inherit
them."""


def switch_off_telemetry() -> None:
    """Switch off the usage reports of OpenVINO, ONNX Runtime and the Hugging Face hub, before they are imported."""
    os.environ.update(_SWITCHES)
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # importing it then raises ImportError
