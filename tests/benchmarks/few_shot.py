"""Measure what a taught head learns from few clips: `PYTHONPATH=tests python -m benchmarks.few_shot FOLDER`.

FOLDER holds films and `clips.csv` with the columns path, label, split (train or val) and group. Each draw takes k clips
of each label from the training clips, from as many groups as possible, and fits a head to their windows. A validation
clip gets the label with the highest mean probability over its windows. `--attention` fits a small attention head to the
same windows, which needs torch.
"""

from __future__ import annotations

import argparse
import csv
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engines.arrays import F32
from engines.bundle import Bundle
from engines.opening import open_engine
from streamclf.builtin_models import find_bundle
from streamclf.errors import SourceError
from streamclf.teach.clip_features import ClipFeatureReader
from streamclf.teach.example_folder import LabelledClip
from streamclf.teach.head import fit_head

WINDOWS = 8
"""The most windows of a clip, as `streamclf teach` takes."""
ATTENTION_SIZE, ATTENTION_EPOCHS, ATTENTION_RATE = 64, 60, 1e-3

Predict = Callable[[F32], F32]
"""Windows (N, T, F) to logits (N, K)."""


@dataclass(frozen=True)
class ReadClip:
    """One clip: its windows (W, T, F), its label as a number, its split and its group."""

    windows: F32
    label: int
    split: str
    group: str


def read_set(folder: Path, base: Bundle) -> list[ReadClip]:
    """Encode the windows of all clips in `clips.csv`. A clip that cannot be read is printed and passed over."""
    with (folder / "clips.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    numbers = {label: number for number, label in enumerate(sorted({row["label"] for row in rows}))}
    engine = open_engine(base, max_batch=16, bank_slots=32)
    reader = ClipFeatureReader(engine, base.spec, limit=WINDOWS, keep_pixels=False)
    clips = []
    for row in rows:
        path = _film(folder, row["path"])
        try:
            (content,), _ = reader.read(
                [LabelledClip(name=row["path"], path=path, label=row["label"], group=row["group"])]
            )
        except SourceError as error:
            content = str(error)
        if isinstance(content, str):
            print(f"{path}: passed over: {content}")
            continue
        group = row["group"] if row["group"] != "unknown" else row["path"]
        clips.append(ReadClip(content.features[content.windows], numbers[row["label"]], row["split"], group))
    engine.close()
    return clips


def _film(folder: Path, name: str) -> Path:
    return folder / name if (folder / name).exists() else folder.parent / name


def draw(clips: Sequence[ReadClip], k: int, random: np.random.Generator) -> list[ReadClip]:
    """Return k clips of each label, in turn from its groups in random order; k=0 returns all."""
    if k == 0:
        return list(clips)
    chosen = []
    for label in sorted({clip.label for clip in clips}):
        groups: dict[str, list[ReadClip]] = defaultdict(list)
        for i in random.permutation(len(clips)):
            if clips[i].label == label:
                groups[clips[i].group].append(clips[i])
        turns = [groups[name] for name in random.permutation(sorted(groups))]
        chosen += list(itertools.islice(_in_turn(turns), k))
    return chosen


def _in_turn(groups: Sequence[list[ReadClip]]) -> Iterator[ReadClip]:
    for turn in itertools.zip_longest(*groups):
        yield from (clip for clip in turn if clip is not None)


def balanced_accuracy(predict: Predict, clips: Sequence[ReadClip]) -> float:
    """Return the mean over labels of the share of clips that get their label."""
    right, total = Counter[int](), Counter[int]()
    for clip in clips:
        logits = predict(clip.windows).astype(np.float64)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        guess = int((odds / odds.sum(axis=1, keepdims=True)).mean(axis=0).argmax())
        right[clip.label] += guess == clip.label
        total[clip.label] += 1
    return float(np.mean([right[label] / total[label] for label in total]))


def fit_linear(clips: Sequence[ReadClip], base: Bundle, seed: int) -> Predict:
    """Fit the head of `streamclf teach`."""
    counts = [len(clip.windows) for clip in clips]
    head = fit_head(
        np.concatenate([clip.windows for clip in clips]),
        np.repeat([clip.label for clip in clips], counts),
        np.repeat([clip.group for clip in clips], counts),
        base.spec.feature_parts,
        seed=seed,
    )
    return head.logits


def fit_attention(clips: Sequence[ReadClip], base: Bundle, seed: int) -> Predict:
    """Fit one layer of attention over the chunks, on standardised features; fixed numbers of epochs and sizes."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    windows = torch.from_numpy(np.concatenate([clip.windows for clip in clips]))
    counts = [len(clip.windows) for clip in clips]
    labels = torch.from_numpy(np.repeat([clip.label for clip in clips], counts))
    weight = torch.from_numpy(np.repeat([1 / count for count in counts], counts)).float()
    mean, scale = windows.mean((0, 1)), windows.std((0, 1))
    scale = scale + 0.05 * scale.mean()
    classes, chunks = int(labels.max()) + 1, windows.shape[1]

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project = nn.Sequential(nn.Dropout(0.3), nn.Linear(windows.shape[2], ATTENTION_SIZE))
            self.positions = nn.Parameter(torch.zeros(chunks, ATTENTION_SIZE))
            self.layer = nn.TransformerEncoderLayer(
                ATTENTION_SIZE, 4, 2 * ATTENTION_SIZE, dropout=0.2, batch_first=True, norm_first=True
            )
            self.classify = nn.Linear(ATTENTION_SIZE, classes)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tokens = self.layer(self.project((x - mean) / scale) + self.positions)
            result: torch.Tensor = self.classify(tokens.mean(1))
            return result

    head = Head()
    optimizer = torch.optim.AdamW(head.parameters(), ATTENTION_RATE, weight_decay=0.1)
    balance = 1 / torch.bincount(labels, weights=weight, minlength=classes).float()
    for _ in range(ATTENTION_EPOCHS):
        for part in torch.randperm(len(windows)).split(32):
            loss = nn.functional.cross_entropy(
                head(windows[part]), labels[part], reduction="none", label_smoothing=0.1
            ) * (weight[part] * balance[labels[part]])
            optimizer.zero_grad()
            (loss.sum() / (weight[part] * balance[labels[part]]).sum()).backward()
            optimizer.step()
    head.eval()

    def predict(x: F32) -> F32:
        with torch.inference_mode():
            logits: F32 = head(torch.from_numpy(x)).numpy()
        return logits

    return predict


def main() -> None:
    """Print mean and standard deviation of the balanced accuracy for each number of clips."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--base", default="everyday")
    parser.add_argument("--clips", nargs="+", type=int, default=[5, 10], help="clips of each label; 0 takes all")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--attention", action="store_true", help="fit an attention head to the same clips")
    args = parser.parse_args()
    base = find_bundle(args.base)
    fits = {"head of teach": fit_linear} | ({"attention": fit_attention} if args.attention else {})
    for folder in args.folders:
        clips = read_set(folder, base)
        train, val = ([clip for clip in clips if clip.split == split] for split in ("train", "val"))
        for k in args.clips:
            for name, fit in fits.items():
                draws = range(args.draws if k else 1)
                scores = [
                    balanced_accuracy(fit(draw(train, k, np.random.default_rng(seed)), base, seed), val)
                    for seed in draws
                ]
                label = f"{k} clips a label" if k else f"all {len(train)} clips"
                print(f"{folder.name}, {label}, {name}: {100 * np.mean(scores):.1f} ± {100 * np.std(scores):.1f} %")


if __name__ == "__main__":
    main()
