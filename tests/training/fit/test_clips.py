"""A whole run on labelled clips in small: list in, weights, figures, bundle out; and everything that can go wrong."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from support.labelled import CLASSES, write_list, write_set
from support.repository import ROOT
from typer.testing import CliRunner

from engines.bundle import load_bundle
from training.__main__ import app
from training.errors import LossError, OutOfMemoryError, RecipeError, RunError
from training.evaluation.evaluate import evaluate_on, evaluate_run
from training.evaluation.report import run_evaluate
from training.export.bundle import export_run
from training.fit.lightning_module import ClipModule
from training.fit.run_folder import build_model, load_run, load_weights
from training.fit.train import open_session, train
from training.recipe import Recipe, parse_recipe

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning.*", "ignore::FutureWarning:lightning.*")


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    """A set whose classes can be told apart by motion alone, and the cache of its decoded clips."""
    folder = tmp_path_factory.mktemp("films")
    write_set(folder, clips=4, held_back=2)
    return folder


def tree(films: Path, **sections: Any) -> dict[str, Any]:
    """A whole recipe, as YAML gives it."""
    whole: dict[str, Any] = {
        "name": "ways",
        "fps": 10,
        "threads": 1,
        "accelerator": "cpu",
        "validate_every": 2,
        "model": {
            "kind": "vivit_factorised", "height": 32, "width": 48, "frames_per_chunk": 2, "chunks": 4, "patch": 16,
            "stem": [[4, 8]], "dim": 32, "heads": 2, "spatial_layers": 1, "temporal_layers": 1, "mlp_ratio": 2,
        },
        "data": {"kind": "clips", "path": str(films / "clips.csv"), "cache": str(films / "cache"), "workers": 1},
        "augment": {"flip": True, "flip_labels": {"left": "right"}, "brightness": 0.1},
        "optimiser": {"learning_rate": 2e-3, "warmup_steps": 2, "steps": 4, "batch": 6},
    }  # fmt: skip
    for name, values in sections.items():
        whole[name] = {**whole.get(name, {}), **values} if isinstance(values, dict) else values
    return whole


def recipe_of(films: Path, **sections: Any) -> Recipe:
    return parse_recipe(tree(films, **sections), where="test")


@pytest.fixture(scope="module")
def run(films, tmp_path_factory) -> Path:
    """A run that has learned."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs") / "ways"
    recipe = recipe_of(
        films, validate_every=35, optimiser={"steps": 70, "batch": 12, "ema_decay": 0.9}, loss={"label_smoothing": 0}
    )
    train(recipe, folder)
    return folder


def test_a_run_learns_and_leaves_what_everything_after_needs(run):
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["clips"] == 6
    assert metrics["top1"] >= 0.8
    assert sum(map(sum, metrics["confusion"])) == 6
    assert json.loads((run / "labels.json").read_text()) == list(CLASSES)
    history = json.loads((run / "history.json").read_text())
    assert [row["step"] for row in history] == [35, 70]
    assert history[1]["train_label"] < history[0]["train_label"]
    recipe, model = load_run(run)
    assert evaluate_run(run)["confusion"] == metrics["confusion"]
    assert recipe.name == "ways"
    assert not model.training


def test_a_bundle_says_what_its_run_says_of_clips_it_has_never_seen(run, films, tmp_path):
    bundle = export_run(run, tmp_path / "bundle")
    spec = load_bundle(bundle.path).spec
    assert (spec.labels, spec.resize, spec.whole_clips) == (CLASSES, "stretch", "windows")
    assert spec.metrics["clips"] == 6
    unseen = write_set(tmp_path / "unseen", clips=0, held_back=2, frames=15)
    by_run = evaluate_on(run, unseen)
    by_bundle = evaluate_on(bundle.path, unseen, windows=0)
    assert by_run["clips"] == by_bundle["clips"] == 6
    assert by_run["confusion"] == evaluate_on(bundle.path, unseen)["confusion"]
    assert by_run["loss"] == pytest.approx(evaluate_on(bundle.path, unseen)["loss"], abs=1e-4)
    assert by_bundle["loss"] == pytest.approx(evaluate_on(run, unseen, windows=0)["loss"], abs=1e-4)
    card = (bundle.path / "README.md").read_text()
    assert "| left | 2 |" in card
    assert "rendered shapes, no real person" in card
    golden = bundle.golden().frames
    for path in (films / "cache").glob("*.npy"):
        assert not any(np.array_equal(golden[0, 0], frame) for frame in np.load(path)[:, :32, :48])


def test_the_command_prints_figures_as_json_and_a_page(run, films, tmp_path):
    arguments = ["evaluate", str(run), "--data", str(films), "--split", "val"]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert {"top1", "top5", "balanced_accuracy", "clips"} <= set(figures)
    assert (figures["clips"], figures["split"]) == (6, "val")
    drawn = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "report")])
    assert "class  clips  recall" in drawn.stdout
    page = (tmp_path / "report" / "index.html").read_text()
    assert page.count("<figure") == 6
    for name in ("confusion.png", "curves.png"):
        assert (tmp_path / "report" / name).read_bytes()[:4] == b"\x89PNG"
    gif = (tmp_path / "report" / "clips" / "0000.gif").read_bytes()
    assert gif[:6] == b"GIF89a"
    assert gif.count(b"\x21\xf9\x04") == 12, "one picture for each frame that the model was shown"


def test_without_data_a_run_is_measured_on_what_it_held_back(run, tmp_path):
    metrics = json.loads((run / "metrics.json").read_text())
    result = CliRunner().invoke(app, ["evaluate", str(run), "--json", "-o", str(tmp_path / "report")])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["confusion"] == metrics["confusion"]
    assert "<h1>ways@1 on validation clips</h1>" in (tmp_path / "report" / "index.html").read_text()
    assert (tmp_path / "report" / "curves.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--data", "none.csv"], 1, "none.csv: no such file or folder"),
        (["--split", "val"], 2, "--split and --windows go with --data"),
        (["--data", "x.csv", "--backend", "magic"], 2, "--backend magic: one of"),
    ],
)
def test_wrong_questions_are_answered_in_one_line(run, arguments, code, said):
    result = CliRunner().invoke(app, ["evaluate", str(run), *arguments])
    assert result.exit_code == code
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_label_that_the_model_does_not_know_is_named(run, films, tmp_path):
    path = write_list(tmp_path / "other.csv", [(films / "left/left_0.mp4", "jump", "", "")])
    with pytest.raises(Exception, match=r"has no label 'jump'"):
        evaluate_on(run, path)
    with pytest.raises(Exception, match="neither a bundle"):
        run_evaluate(tmp_path, path, split=None, windows=None, backend="auto", precision="fp32", output=None)


def test_two_runs_are_the_same_and_loaders_change_nothing(films, tmp_path):
    recipe = recipe_of(films, augment={"crop": [0.8, 1], "operations": 2, "mixup": 0.2}, optimiser={"steps": 2})
    train(recipe, tmp_path / "one")
    train(recipe, tmp_path / "two")
    train(recipe.model_copy(update={"num_workers": 2}), tmp_path / "three")
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "two", "three")]
    assert all(torch.equal(weights[0][name], other[name]) for other in weights[1:] for name in weights[0])


def test_a_killed_run_goes_on_and_ends_where_it_would_have(films, tmp_path):
    """kill -9 in the middle of step 3; the second start goes on from step 2, to the same weights."""
    recipe = recipe_of(films, optimiser={"steps": 6, "ema_decay": 0.5})
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    killed = tmp_path / "killed"
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from training.fit.lightning_module import ClipModule\n"
        "from training.recipe import load_recipe\n"
        "from training.fit.train import train\n"
        "plain = ClipModule.training_step\n"
        "def step(self, batch, index):\n"
        "    if self.global_step == 3:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return plain(self, batch, index)\n"
        "ClipModule.training_step = step\n"
        f"train(load_recipe(Path({str(path)!r})), Path({str(killed)!r}))\n"
    )
    died = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, timeout=100, check=False)
    assert died.returncode == -9, died.stderr.decode()
    train(recipe, killed)
    train(recipe, tmp_path / "whole")
    one, other = (load_file(folder / "model.safetensors") for folder in (killed, tmp_path / "whole"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    history = json.loads((killed / "history.json").read_text())
    assert [row["step"] for row in history] == [2, 4, 6], "the curve goes on too"


def test_two_processes_train_together(films, tmp_path):
    """`torchrun` with two CPU processes: one run, measured as a whole."""
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree(films, optimiser={"steps": 4, "frozen_steps": 2, "backbone_rate": 0.5})))
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "training", "train"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, *words, str(path), "--folder", str(tmp_path / "run"), "--json"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            said, errors = process.communicate(timeout=100)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its own children outlive torchrun
    assert process.returncode == 0, errors
    assert json.loads(said)["loss"] < 3, "every clip was measured, and one object printed"
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["clips"] == 6
    assert evaluate_run(tmp_path / "run")["confusion"] == metrics["confusion"]


def test_the_backbone_stands_still_and_then_learns_more_slowly(films, tmp_path):
    recipe = recipe_of(films, keep="last", optimiser={"steps": 4, "frozen_steps": 4})
    torch.manual_seed(0)
    started = build_model(recipe, 3)
    save_file(started.state_dict(), tmp_path / "start.safetensors")
    begun = recipe.model_copy(update={"start_from": tmp_path / "start.safetensors"})
    train(begun, tmp_path / "frozen")
    frozen = load_file(tmp_path / "frozen" / "model.safetensors")
    for name, before in started.state_dict().items():
        assert torch.equal(before, frozen[name]) == name.startswith("encoder."), name
    thawing = recipe_of(films, keep="last", optimiser={"steps": 4, "frozen_steps": 2, "backbone_rate": 0.1})
    train(thawing.model_copy(update={"start_from": tmp_path / "start.safetensors"}), tmp_path / "thawed")
    thawed = load_file(tmp_path / "thawed" / "model.safetensors")
    moved = {name: float((thawed[name] - value).abs().max()) for name, value in started.state_dict().items()}
    encoder = max(value for name, value in moved.items() if name.startswith("encoder."))
    assert 0 < encoder < 0.3 * max(value for name, value in moved.items() if name.startswith("head."))


def test_features_of_a_frozen_encoder_are_kept_and_learned_from(films, tmp_path, monkeypatch):
    recipe = recipe_of(
        films,
        model={"frames_per_chunk": 1, "chunks": 8},
        data={"cache": str(tmp_path / "cache")},
        windows={"views": 3},
        optimiser={"steps": 4, "frozen_steps": 4},
    )
    save_file(build_model(recipe, 3).state_dict(), tmp_path / "start.safetensors")
    recipe = recipe.model_copy(update={"start_from": tmp_path / "start.safetensors"})
    metrics = train(recipe, tmp_path / "run")
    files = sorted((tmp_path / "cache" / "features").glob("*.npy"))
    assert len(files) == 12 * 3 + 6
    stamps = [path.stat().st_mtime_ns for path in files]
    session = open_session(recipe)
    again = sorted((tmp_path / "cache" / "features").glob("*.npy"))
    assert [path.stat().st_mtime_ns for path in again] == stamps, "nothing is encoded twice"
    clip = session.validation.clips.frames(0)
    model = session.module.model.eval()
    with torch.inference_mode():
        features = model.encoder(torch.from_numpy(clip[:, None].copy()))
    batch = next(iter(session.validation))
    assert torch.allclose(batch["features"].float(), features[: len(batch["features"])], atol=5e-3)
    assert evaluate_run(tmp_path / "run")["loss"] == pytest.approx(metrics["loss"], abs=1e-2)
    with pytest.raises(RecipeError, match="needs a frozen backbone"):
        recipe_of(films, windows={"views": 3})


def test_whole_chunks_are_kept_where_they_have_several_frames(films, tmp_path):
    """An encoder of several frames: what is learned from, and measured, is what it gives for the frames themselves."""
    given = {
        "model": {"frames_per_chunk": 2, "chunks": 4},
        "data": {"cache": str(tmp_path / "cache"), "steps": 2},
        "windows": {"views": 2, "jitter": 0.0},
        "augment": {"flip": False, "flip_labels": {}, "brightness": 0.0},
        "optimiser": {"steps": 4, "frozen_steps": 4},
    }
    session = open_session(recipe_of(films, **given))
    model = session.module.model.eval()
    held_back, clips = next(iter(session.validation)), session.validation.clips
    drawn, sampler = session.training.sample_batch(np.random.default_rng(3)), session.training.sampler
    # The same draws, of pictures instead.
    odds = np.random.default_rng(3)
    index = int(odds.choice(len(sampler.clips.labels), 6, p=session.training.odds)[0])
    odds.integers(2)
    frames = sampler.clips.frames(index)
    first = sampler.frame_indices(odds, len(frames), 2)[::2]
    chunks = np.stack([frames[first], frames[np.minimum(first + 2, len(frames) - 1)]], axis=1)
    with torch.inference_mode():
        expected = model.encoder(torch.from_numpy(clips.frames(0)[:8].reshape(4, 2, *clips.frames(0).shape[1:]).copy()))
        assert torch.allclose(held_back["features"][:4].float(), expected, atol=5e-3)
        assert torch.allclose(drawn["features"][0], model.encoder(torch.from_numpy(chunks)), atol=5e-3)
    for section, words in (("augment", {"speed": [0.5, 2]}), ("windows", {"views": 2, "short_clips": "loop"})):
        with pytest.raises(RecipeError, match=rf"{section}\..*: with windows.views and model.frames_per_chunk=2 only"):
            recipe_of(films, **given | {section: {**given[section], **words}})


def test_weights_of_other_classes_are_taken_where_they_fit(run, films, tmp_path, capsys):
    four = write_set(tmp_path / "four", clips=2, held_back=1, classes=("left", "right"))
    recipe = recipe_of(films, start_from=str(run), start_strict=False, data={"path": str(four)})
    model = build_model(recipe)
    taken = load_file(run / "model.safetensors")
    assert torch.equal(model.state_dict()["encoder.stack.class_token"], taken["encoder.stack.class_token"])
    said = capsys.readouterr().err
    assert "head.classify.bias, head.classify.weight" in said
    assert f"loaded {len(taken) - 2} of {len(taken)} tensors" in said
    with pytest.raises(RunError, match=r"not this model's weights \(.*start_strict: false"):
        build_model(recipe.model_copy(update={"start_strict": True}))
    save_file({"something": torch.zeros(2)}, tmp_path / "else.safetensors")
    with pytest.raises(RunError, match="none of its 1 tensors"):
        build_model(recipe.model_copy(update={"start_from": tmp_path / "else.safetensors"}))


@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_pickles_are_refused_unread(films, tmp_path, kind):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    path = tmp_path / "model.pt"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Evil()))
    else:
        torch.save({"weights": Evil()}, path)
    with pytest.raises(RunError, match="a pickle"):
        load_weights(build_model(recipe_of(films)), path)
    assert not (tmp_path / "ran").exists()


def test_other_files_are_no_weights(films, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0nonsense")
    with pytest.raises(RunError, match=r"weights cannot be read \(not safetensors"):
        load_weights(build_model(recipe_of(films)), tmp_path / "x.safetensors")
    with pytest.raises(RunError, match=r"weights cannot be read \(No such file"):
        load_weights(build_model(recipe_of(films)), tmp_path / "none.safetensors")


def test_a_loss_that_is_not_a_number_stops_and_says_where(films, tmp_path, monkeypatch):
    plain = ClipModule.losses

    def breaks(self, batch):
        parts = plain(self, batch)
        return {name: part * (float("nan") if self.global_step == 1 else 1) for name, part in parts.items()}

    monkeypatch.setattr(ClipModule, "losses", breaks)
    with pytest.raises(LossError, match=r"step 1: the loss is nan \(label part nan\); lower optimiser\.learning_rate"):
        train(recipe_of(films), tmp_path / "run")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
)
@pytest.mark.parametrize("where", ["losses", "backward"])
def test_out_of_memory_says_which_key_to_lower(films, tmp_path, monkeypatch, error, where):
    def breaks(*_args, **_words):
        raise error

    target = ClipModule if where == "losses" else torch.Tensor
    monkeypatch.setattr(target, where, breaks)
    with pytest.raises(OutOfMemoryError, match=r"step 0: out of memory; lower optimiser\.batch=6"):
        train(recipe_of(films), tmp_path / "run")


def test_training_ends_early_without_progress(films, tmp_path):
    recipe = recipe_of(films, patience=1, monitor="loss", optimiser={"steps": 20, "learning_rate": 1e-9})
    monkeyless = train(recipe, tmp_path / "run")
    history = json.loads((tmp_path / "run" / "history.json").read_text())
    assert history[-1]["step"] < 20
    assert monkeyless["loss"] == pytest.approx(min(row["loss"] for row in history), abs=1e-5)


def test_another_recipe_does_not_go_into_the_same_run(run, films):
    with pytest.raises(RunError, match="another recipe"):
        train(recipe_of(films), run)


def test_a_finished_run_is_not_trained_again(run, films, tmp_path):
    before = (run / "model.safetensors").read_bytes()
    recipe, _ = load_run(run)
    train(recipe, run)
    assert (run / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"loss": {"patch_keep": 0.5}}, "loss.patch_keep=0.5: only for data.kind: camera_events"),
        ({"data": {"colour": 1}}, "data.colour=1: unknown key"),
        ({"data": {"steps": 99}}, "data.steps=99"),
        ({"data": {"kind": "films"}}, "data"),
        ({"windows": {"span": [1, 0.5]}}, "the smaller first"),
        ({"augment": {"crop": [2, 3]}}, "between 0.1 and 1"),
        ({"data": {"folds": 3, "fold": 3}}, "folds count from 0 to folds - 1"),
    ],
)
def test_a_wrong_key_is_told_as_the_recipe_spells_it(films, sections, said):
    with pytest.raises(RecipeError) as caught:
        recipe_of(films, **sections)
    assert said in str(caught.value)


def test_one_clip_is_no_set(tmp_path, films):
    path = write_list(tmp_path / "one.csv", [(films / "left/left_0.mp4", "left", "", "")])
    result = CliRunner().invoke(app, ["train", _saved(tmp_path, films, path), "--run", str(tmp_path / "run")])
    assert result.exit_code == 1
    assert "one class only, 'left'" in result.stderr


def _saved(tmp_path: Path, films: Path, data: Path) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree(films, data={"path": str(data)})))
    return str(path)
