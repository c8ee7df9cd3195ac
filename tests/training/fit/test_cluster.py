"""A recipe trains on a Ray cluster. A killed worker costs the steps since the newest checkpoint."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from support.clip_recipes import clip_recipe_tree
from support.repository import ROOT

from training.errors import RunError
from training.fit.cluster import train_on_cluster

ray = pytest.importorskip("ray", reason="Ray is not installed")
pytest.importorskip("ray.train", reason="Ray Train is not installed")


def test_an_address_without_a_cluster_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"--cluster nonsense: no Ray cluster"):
        train_on_cluster(tmp_path / "r.yaml", [], tmp_path / "run", address="nonsense", workers=1, gpu=False)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_killed_worker_is_replaced_and_the_run_ends(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    recipe, run = tmp_path / "recipe.yaml", tmp_path / "run"
    tree = clip_recipe_tree(films, validate_every=10, optimiser={"steps": 60, "batch": 12})
    recipe.write_text(yaml.safe_dump(tree))
    node = {"num_cpus": 1, "object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        cluster.add_node(**node)
        command = ["train", str(recipe), "--run", str(run), "--cluster", cluster.address, "--workers", "2", "--json"]
        with subprocess.Popen(
            [sys.executable, "-m", "training", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as running:
            deadline = time.monotonic() + 200
            while not list(run.glob("**/last.ckpt")):
                assert running.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
            processes = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
            workers = [int(pid) for pid in re.findall(r"^\s*(\d+) ray::RayTrainWorker", processes, re.MULTILINE)]
            os.kill(workers[-1], signal.SIGKILL)
            output, _ = running.communicate(timeout=200)
        assert running.returncode == 0, output
    finally:
        cluster.shutdown()
    history = json.loads((run / "history.json").read_text())
    assert [row["step"] for row in history] == [10, 20, 30, 40, 50, 60]
    assert "step 10: validation" in output
    assert output.count("Started training worker group") == 2
