"""Train a recipe on a Ray cluster, with Ray Train. The code that trains is the same as on one machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from training.errors import RunError
from training.fit.run_folder import METRICS_FILE, read_json

MAX_FAILURES: Final = 5
"""Lost workers and machines after which the run ends. The same command resumes it."""
INSTALL: Final = "pip install 'ray[train]'"


def train_on_cluster(
    recipe: Path, overrides: Sequence[str], run: Path, *, address: str, workers: int, gpu: bool
) -> dict[str, float]:
    """Train into the folder `run` with `workers` processes of the cluster, and return the figures.

    `run` and the recipe's data must be on a disk that all machines have at the same path. When a process or a machine
    is lost, Ray starts all processes again, and they resume from the newest checkpoint in `run`. Raises `RunError`.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray sends statistics to its makers otherwise
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    try:
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer
        from ray.train.v2.api.exceptions import TrainingFailedError
    except ImportError:
        raise RunError(f"--cluster {address}: needs Ray Train, which is not installed: {INSTALL}") from None
    run = run.absolute()
    run.mkdir(parents=True, exist_ok=True)
    try:
        ray.init(address=address, log_to_driver=True, configure_logging=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise RunError(
            f"--cluster {address}: no Ray cluster ({reason:.200}); start one with `ray start --head`, and give its "
            "HOST:6379"
        ) from error
    try:
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call, unused-ignore]
        free = resources.get("GPU" if gpu else "CPU", 0)
        if free < workers:
            kind = "GPUs" if gpu else "processors"
            raise RunError(f"--workers {workers}: the cluster has {free:g} {kind}; add nodes, or give fewer workers")
        trainer = TorchTrainer(
            _train_in_worker,
            train_loop_config={"recipe": str(recipe.absolute()), "overrides": [*overrides], "run": str(run)},
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpu),
            run_config=RunConfig(
                name="ray", storage_path=str(run), failure_config=FailureConfig(max_failures=MAX_FAILURES)
            ),
        )
        trainer.fit()
        return {name: value for name, value in read_json(run / METRICS_FILE).items() if isinstance(value, float)}
    except (ray.exceptions.RayError, TrainingFailedError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        reason = lines[-1].strip() if lines else type(error).__name__
        raise RunError(f"the cluster ended the run: {reason}; the same command resumes it") from error
    finally:
        ray.shutdown()


def _train_in_worker(config: dict[str, Any]) -> None:
    """Run in each process of the cluster. Ray has set the variables that torchrun sets, but for its own two."""
    os.environ["TORCHELASTIC_RUN_ID"] = "ray"
    os.environ["GROUP_RANK"] = os.environ.get("NODE_RANK", "0")
    from training.fit.train import train
    from training.recipe import load_recipe

    train(load_recipe(Path(config["recipe"]), config["overrides"]), Path(config["run"]))
