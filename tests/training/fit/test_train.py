"""Training learns, resumes after a kill, and gives the same weights each time."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from support.clip_recipes import clip_recipe, clip_recipe_tree
from support.labelled import CLASSES
from support.repository import ROOT

from training.data.batches import Batch
from training.errors import LossError, RunError
from training.evaluation.evaluate import evaluate_run
from training.fit.lightning_module import ClipModule
from training.fit.run_folder import build_model, load_run
from training.fit.train import train
from training.recipe import Recipe

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning.*", "ignore::FutureWarning:lightning.*")


def test_run_learns_and_writes_its_folder(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["clips"] == 6
    assert metrics["top1"] >= 0.8
    assert sum(map(sum, metrics["confusion"])) == 6
    assert json.loads((run / "labels.json").read_text()) == list(CLASSES)
    history = json.loads((run / "history.json").read_text())
    assert [row["step"] for row in history] == [35, 70]
    assert history[1]["train_label"] < history[0]["train_label"]
    recipe, model = load_run(run)
    assert recipe.name == "ways"
    assert not model.training


def test_two_runs_are_equal_with_and_without_worker_processes(films: Path, tmp_path: Path) -> None:
    recipe = clip_recipe(films, augment={"crop": [0.8, 1], "operations": 2, "mixup": 0.2}, optimiser={"steps": 2})
    train(recipe, tmp_path / "one")
    train(recipe, tmp_path / "two")
    train(recipe.model_copy(update={"num_workers": 2}), tmp_path / "three")
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "two", "three")]
    assert all(torch.equal(weights[0][name], other[name]) for other in weights[1:] for name in weights[0])


def test_run_uses_bfloat16_only_where_the_cpu_has_it(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = {}
    for name, precision, has_it in (
        ("single", "32-true", True),
        ("without", "bf16-mixed", False),
        ("with", "bf16-mixed", True),
    ):
        monkeypatch.setattr("training.fit.train.cpu_has_bfloat16", lambda answer=has_it: answer)
        recipe = clip_recipe(films, accelerator="cpu", precision=precision, optimiser={"steps": 2})
        train(recipe, tmp_path / name)
        weights[name] = load_file(tmp_path / name / "model.safetensors")
        assert ("this CPU has no instructions for bfloat16" in capsys.readouterr().err) == (name == "without")
    assert all(torch.equal(value, weights["without"][name]) for name, value in weights["single"].items())
    assert any(not torch.equal(value, weights["with"][name]) for name, value in weights["single"].items())


def test_killed_run_resumes_and_ends_with_the_same_weights(films: Path, tmp_path: Path) -> None:
    """SIGKILL in step 3; the second start resumes at step 2."""
    recipe = clip_recipe(films, optimiser={"steps": 6, "ema_decay": 0.5})
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    killed = tmp_path / "killed"
    script = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from training.fit.lightning_module import ClipModule\n"
        "from training.recipe import load_recipe\n"
        "from training.fit.train import train\n"
        "original = ClipModule.training_step\n"
        "def step(self, batch, index):\n"
        "    if self.global_step == 3:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return original(self, batch, index)\n"
        "ClipModule.training_step = step\n"
        f"train(load_recipe(Path({str(path)!r})), Path({str(killed)!r}))\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, timeout=100, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    train(recipe, killed)
    train(recipe, tmp_path / "whole")
    one, other = (load_file(folder / "model.safetensors") for folder in (killed, tmp_path / "whole"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    history = json.loads((killed / "history.json").read_text())
    assert [row["step"] for row in history] == [2, 4, 6], "the resumed run continues the learning curve"


@pytest.mark.parametrize("kind", ["camera_events", "clips"])
def test_stopped_run_with_worker_processes_ends_with_the_same_weights(
    kind: str, tiny: Recipe, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops after the validation of step 2, when the loader has prepared later batches already."""
    if kind == "camera_events":  # PatchDropout draws new random numbers after a resume
        optimiser, loss = (
            tiny.optimiser.model_copy(update={"steps": 4}),
            tiny.loss.model_copy(update={"patch_keep": 1}),
        )
        recipe = tiny.model_copy(update={"keep": "last", "num_workers": 1, "optimiser": optimiser, "loss": loss})
    else:
        augment = {"crop": [0.8, 1], "operations": 2, "mixup": 0.2}
        recipe = clip_recipe(films, augment=augment, keep="last", num_workers=1)
    train(recipe, tmp_path / "whole")
    step = ClipModule.training_step

    def stop(self: ClipModule, batch: Batch, index: int) -> torch.Tensor:
        if self.global_step == 3:
            raise LossError("stopped")
        return step(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(ClipModule, "training_step", stop)
        with pytest.raises(LossError, match="stopped"):
            train(recipe, tmp_path / "stopped")
    train(recipe, tmp_path / "stopped")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "stopped"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_killed_worker_process_is_an_error_that_says_so(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = ClipModule.training_step

    def kill(self: ClipModule, batch: Batch, index: int) -> torch.Tensor:
        for process in multiprocessing.active_children():
            process.kill()
        return step(self, batch, index)

    monkeypatch.setattr(ClipModule, "training_step", kill)
    recipe = clip_recipe(films, num_workers=1, optimiser={"steps": 2000}, validate_every=1000)
    with pytest.raises(
        RunError, match=r"a process of num_workers \(pid \d+\) was ended by SIGKILL \(if memory ran out"
    ):
        train(recipe, tmp_path / "run")


def test_two_processes_train_one_run(films: Path, tmp_path: Path) -> None:
    """`torchrun` with two CPU processes gives one run, validated on all clips."""
    path = tmp_path / "recipe.yaml"
    path.write_text(
        yaml.safe_dump(clip_recipe_tree(films, optimiser={"steps": 4, "frozen_steps": 2, "backbone_rate": 0.5}))
    )
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "training", "train"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, *torchrun, str(path), "--folder", str(tmp_path / "run"), "--json"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, errors = process.communicate(timeout=250)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its child processes outlive torchrun
    assert process.returncode == 0, errors
    assert json.loads(output)["loss"] < 3, "one object is printed"
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["clips"] == 6
    assert evaluate_run(tmp_path / "run")["confusion"] == metrics["confusion"]


def test_backbone_is_frozen_and_then_learns_more_slowly(films: Path, tmp_path: Path) -> None:
    recipe = clip_recipe(films, keep="last", optimiser={"steps": 4, "frozen_steps": 4})
    torch.manual_seed(0)
    start = build_model(recipe, 3)
    save_file(start.state_dict(), tmp_path / "start.safetensors")
    train(recipe.model_copy(update={"start_from": tmp_path / "start.safetensors"}), tmp_path / "frozen")
    frozen = load_file(tmp_path / "frozen" / "model.safetensors")
    for name, before in start.state_dict().items():
        assert torch.equal(before, frozen[name]) == name.startswith("encoder."), name
    unfreezing = clip_recipe(films, keep="last", optimiser={"steps": 4, "frozen_steps": 2, "backbone_rate": 0.1})
    train(unfreezing.model_copy(update={"start_from": tmp_path / "start.safetensors"}), tmp_path / "unfrozen")
    unfrozen = load_file(tmp_path / "unfrozen" / "model.safetensors")
    change = {name: float((unfrozen[name] - value).abs().max()) for name, value in start.state_dict().items()}
    encoder = max(value for name, value in change.items() if name.startswith("encoder."))
    assert 0 < encoder < 0.3 * max(value for name, value in change.items() if name.startswith("head."))


def test_training_stops_early_without_improvement(films: Path, tmp_path: Path) -> None:
    recipe = clip_recipe(films, patience=1, monitor="loss", optimiser={"steps": 20, "learning_rate": 1e-9})
    metrics = train(recipe, tmp_path / "run")
    history = json.loads((tmp_path / "run" / "history.json").read_text())
    assert history[-1]["step"] < 20
    assert metrics["loss"] == pytest.approx(min(row["loss"] for row in history), abs=1e-5)


def test_folder_of_another_recipe_is_refused(run: Path, films: Path) -> None:
    with pytest.raises(RunError, match="another recipe"):
        train(clip_recipe(films), run)


def test_finished_run_is_not_trained_again(run: Path) -> None:
    before = (run / "model.safetensors").read_bytes()
    recipe, _ = load_run(run)
    train(recipe, run)
    assert (run / "model.safetensors").read_bytes() == before
