"""Serve a Triton model repository over KServe's v2 protocol (HTTP with binary tensors), with ONNX Runtime."""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import onnxruntime as ort

DTYPES = {"UINT8": np.uint8, "FP32": np.float32}
_MODEL = re.compile(r"/v2/models/([^/]+)(?:/versions/1)?/(config|infer)")


class TritonServer:
    """A server of the models in a repository, which is read once. `failing`: infer answers with this error."""

    def __init__(self, repository: Path) -> None:
        self.models = {folder.name: _Model(folder) for folder in repository.iterdir()}
        self.requests: list[tuple[str, int]] = []
        """(model, batch) of each inference."""
        self.failing: str | None = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> TritonServer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Model:
    def __init__(self, folder: Path) -> None:
        text = (folder / "config.pbtxt").read_text()
        self.max_batch = int(re.findall(r"max_batch_size: (\d+)", text)[0])
        self.parameters = {
            key: {"string_value": value}
            for key, value in re.findall(r'key: "(\w+)" value: \{ string_value: "(\w+)" \}', text)
        }
        # The names and shapes of the configuration, as the server checks them against the graph.
        self.shapes = {
            name: [int(size) for size in dims.split(",")]
            for name, dims in re.findall(r'name: "(\w+)" data_type: \w+ dims: \[ ([\d, ]+) \]', text)
        }
        self.session = ort.InferenceSession(str(folder / "1" / "model.onnx"), providers=["CPUExecutionProvider"])
        for tensor in (*self.session.get_inputs(), *self.session.get_outputs()):
            assert tensor.shape[1:] == self.shapes[tensor.name]


def _handler(server: TritonServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None: ...

        def do_GET(self) -> None:
            model = self._model()
            if model is not None:
                self._send(200, {"max_batch_size": model.max_batch, "parameters": model.parameters})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            model = self._model()
            if model is None:
                return
            if server.failing is not None:
                self._send(500, {"error": server.failing})
                return
            length = int(self.headers["Inference-Header-Content-Length"])
            request = json.loads(body[:length])
            (given,) = request["inputs"]
            assert given["parameters"]["binary_data_size"] == len(body) - length
            values = np.frombuffer(body[length:], DTYPES[given["datatype"]]).reshape(given["shape"])
            server.requests.append((self.path.split("/")[3], len(values)))
            (wanted,) = request["outputs"]
            (result,) = model.session.run([wanted["name"]], {given["name"]: values})
            binary = result.tobytes()
            output = {"name": wanted["name"], "datatype": "FP32", "shape": [*result.shape]}
            self._send(200, {"outputs": [{**output, "parameters": {"binary_data_size": len(binary)}}]}, binary)

        def _model(self) -> _Model | None:
            found = _MODEL.fullmatch(self.path)
            model = server.models.get(found[1]) if found else None
            if model is None:
                self._send(400, {"error": "Request for unknown model"})
            return model

        def _send(self, status: int, content: dict[str, Any], binary: bytes = b"") -> None:
            head = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(head) + len(binary)))
            if binary:
                self.send_header("Inference-Header-Content-Length", str(len(head)))
            self.end_headers()
            self.wfile.write(head + binary)

    return Handler
