"""ViViT-B/16x2 on this GPU beside the same model in torch: `PYTHONPATH=tests python tests/gpu/bench.py`, JSON lines.

What needs no torch is `streamclf bench --suite gpu`, which this calls first, with a bundle of random weights that it
exports. Then come torch's whole windows, eager, compiled and replayed as a CUDA graph, and the ceiling of matrix
products by which the operations of both can be judged.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from support.vivit import BASE, make_vivit_bundle, random_vivit

from streamclf.bench.gpu import bench_gpu
from streamclf.bench.limit import measure

SECONDS = 2.0
SQUARE = 8192
BATCHES = (1, 8, 32)


def show(figures: dict[str, Any]) -> None:
    """One line of JSON."""
    print(json.dumps(figures), flush=True)


def bench_torch(settings: dict[str, Any]) -> None:
    """Whole windows in FP16; and the matmul ceiling."""
    square = torch.randn(SQUARE, SQUARE, device="cuda", dtype=torch.float16)
    product = measure(lambda: _run(square.matmul, square), finish=torch.cuda.synchronize, seconds=SECONDS)
    show({"gpu": torch.cuda.get_device_name(), "matmul_fp16_tflops": 2 * SQUARE**3 / product.wall_s / 1e12})
    model = random_vivit(settings).cuda()
    sizes = [settings[name] for name in ("tokens", "frames_per_token", "height", "width")]
    with torch.inference_mode(), torch.autocast("cuda", torch.float16):
        modes = {"eager": model, "compile": torch.compile(model), "graph": torch.compile(model, mode="reduce-overhead")}
        for name, run in modes.items():
            for batch in BATCHES:
                window = torch.randint(0, 256, (batch, *sizes, 3), dtype=torch.uint8, device="cuda")
                _run(run, window)  # compiles
                cost = measure(lambda: _run(run, window), finish=torch.cuda.synchronize, seconds=SECONDS)  # noqa: B023
                show(
                    {
                        "torch": torch.__version__,
                        "mode": name,
                        "batch": batch,
                        "windows_per_s": batch / cost.wall_s,
                        "spread": cost.wall_spread,
                    }
                )


def _run(call: Any, argument: Any) -> None:
    call(argument)


def main() -> None:
    """Export, prove, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = make_vivit_bundle(Path(folder) / "vivit-b-16x2", BASE)[1]
        show(bench_gpu(str(bundle.path), streams=arguments.streams, seconds=arguments.seconds))
    bench_torch(BASE)


if __name__ == "__main__":
    main()
