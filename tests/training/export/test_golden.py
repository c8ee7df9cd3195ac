"""The golden window shows wrong numbers, and the exported graphs agree with the model on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from engines.arrays import U8
from engines.bundle import ENCODER_FILE, HEAD_FILE
from training.errors import RunError
from training.export.golden import rank_golden_windows
from training.export.onnx import choose_agreeing_window, export_bundle, write_graph
from training.models import ClipModel


class Brightness(nn.Module):
    """Encode a chunk into its mean value (N, 1), 0 to 255. The exported graph gives another value above 100.

    So a window above 100 stands for one with a near tie, which ONNX Runtime decides differently.
    """

    def forward(self, frames: Tensor) -> Tensor:
        mean = frames.float().mean(dim=(1, 2, 3, 4))[:, None]
        return mean + 5.0 * (mean > 100) if torch.compiler.is_compiling() else mean


class Logits(nn.Module):
    """Give the second label the logit (mean - 100) / 100 and the first one zero."""

    def forward(self, features: Tensor) -> Tensor:
        second = (features.mean(dim=1) - 100) / 100
        return torch.cat([torch.zeros_like(second), second], dim=1)


class TyingModel(ClipModel):
    may_tie = True

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = Brightness(), Logits()


class ExactModel(TyingModel):
    may_tie = False


def window(value: int) -> U8:
    return np.full((2, 1, 8, 8, 3), value, np.uint8)


def values_of(windows: list[U8]) -> list[int]:
    return [int(frames.flat[0]) for frames in windows]


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the two graphs of `TyingModel`, which tests only read."""
    folder, model = tmp_path_factory.mktemp("graphs"), TyingModel()
    write_graph(model.encoder, torch.from_numpy(window(1)), folder / ENCODER_FILE, "frames", "features")
    write_graph(model.head, torch.zeros(2, 2, 1), folder / HEAD_FILE, "features", "logits")
    return folder


def choose(values: list[int], graphs: Path) -> int:
    """Return the value of the window that is chosen from windows of these values, best first."""
    return values_of([choose_agreeing_window(TyingModel(), [window(value) for value in values], graphs)])[0]


def test_window_with_a_near_tie_is_replaced_by_the_next_one_without(
    graphs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert choose([180, 30, 20, 190, 10], graphs) == 30
    (note,) = capsys.readouterr().err.splitlines()
    assert note.startswith("note: the graphs differ from PyTorch on 2 of 5 candidates for the golden window")


def test_best_window_without_a_difference_is_taken_without_a_note(
    graphs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert choose([20, 180, 190], graphs) == 20
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "counts"),
    [([180, 190, 10, 20], "on 2 of 4 candidates"), ([180, 190, 200], "on 3 of 3 candidates"), ([180], "encoder.onnx")],
)
def test_graph_that_differs_on_half_of_the_windows_is_refused(values: list[int], counts: str, graphs: Path) -> None:
    """A fault of the graph shows on many windows."""
    with pytest.raises(RunError, match="ONNX Runtime differs from PyTorch by") as caught:
        choose(values, graphs)
    assert counts in str(caught.value)


@pytest.mark.parametrize("model", [TyingModel(), ExactModel()])
def test_only_a_model_that_chooses_may_take_a_spare_window(model: ClipModel, tmp_path: Path) -> None:
    """Another model must agree on the best window, because only a fault makes its graph differ. No bundle is left."""
    fields = {"name": "tie", "version": "1", "labels": ("a", "b"), "height": 8, "width": 8, "fps": 10}
    fields |= {"frames_per_chunk": 1, "chunks": 2}
    golden, *spare = (window(value) for value in (180, 30, 20))
    if model.may_tie:
        bundle = export_bundle(model, fields=fields, golden=golden, spare=spare, card="# tie\n", path=tmp_path / "tie")
        assert np.array_equal(bundle.golden().frames, spare[0])
        np.testing.assert_allclose(bundle.golden().logits, [0, -0.7], atol=1e-6)
    else:
        with pytest.raises(RunError, match=r"encoder\.onnx: ONNX Runtime differs from PyTorch by"):
            export_bundle(model, fields=fields, golden=golden, spare=spare, card="", path=tmp_path / "tie")
        assert not list(tmp_path.iterdir())


def test_clear_lead_comes_first_then_the_least_certain() -> None:
    """The leads of these windows are 0.05, 0.46, 0.24 and 0.10; below 0.22, a larger lead is better."""
    ranked = rank_golden_windows(TyingModel(), [window(value) for value in (110, 200, 149, 120)])
    assert values_of(ranked) == [149, 200, 120, 110]


def test_labels_far_from_their_thresholds_come_first_then_the_least_certain() -> None:
    """The nearer label has the probabilities 0.51, 0.73, 0.31, 0.52 and 0.60; at less than 0.06 from 0.5 it is near."""

    class Independent(nn.Module):
        def forward(self, windows: Tensor) -> Tensor:
            mean = windows.float().mean(dim=(1, 2, 3, 4, 5))
            return torch.stack([(mean - 100) / 100, (mean - 100) / 50], dim=1)

    windows = [window(value) for value in (104, 200, 20, 106, 140)]
    ranked = rank_golden_windows(Independent(), windows, np.array([0.5, 0.5], np.float32))
    assert values_of(ranked) == [140, 20, 200, 106, 104]
