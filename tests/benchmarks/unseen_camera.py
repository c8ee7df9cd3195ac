"""Measure camera-events on film and disturbances that its other benchmark does not have.

    PYTHONPATH=tests python -m benchmarks.unseen_camera --data DATA [--materials FOLDER] [--bundle B] [--json [FILE]]
        [--sheet FILE]

DATA is the folder with `tennis/` and `gestures/`, and FOLDER that of the photographs of materials. README.md describes
the films, the six groups of disturbances, the one of photographs, the changes that leave a film normal, and the
figures.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from benchmarks.unseen_excerpts import CHANGED, Excerpt, excerpts
from support.unseen.film import Group
from support.unseen.groups import GROUPS
from support.unseen.photographed import LIST, photographed_group
from support.unseen.photographed import NAME as PHOTOGRAPHED

from engines.arrays import U8
from engines.bundle import Bundle
from engines.opening import open_engine
from engines.protocol import Engine
from streamclf.builtin_models import find_bundle
from streamclf.commands.report.accuracy import wilson_interval

BANK_SLOTS: Final = 32
"""More than the chunks of an excerpt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """An excerpt's predictions: the best label of each window, and the probability of the excerpt's label."""

    film: str
    label: str
    properties: dict[str, str]
    predicted: list[str]
    probabilities: list[float]


def open_for(bundle: Bundle) -> Engine:
    """Open a bundle with one thread and a bank for an excerpt."""
    return open_engine(bundle, precision="fp32", max_batch=4, bank_slots=BANK_SLOTS, threads=1)


def judge(engine: Engine, found: Iterator[Excerpt]) -> list[Judged]:
    """Classify the windows of each excerpt. The engine's bank needs `BANK_SLOTS`."""
    labels, slots = list(engine.spec.labels), np.arange(BANK_SLOTS, dtype=np.int32)
    judged = []
    for excerpt in found:
        for first in range(0, len(excerpt.chunks), engine.max_batch):
            batch = excerpt.chunks[first : first + engine.max_batch]
            engine.encode(batch, slots[first : first + len(batch)])
        rows = [engine.classify(slots[None, first : first + engine.spec.chunks])[0].copy() for first in excerpt.starts]
        judged.append(
            Judged(
                film=excerpt.film,
                label=excerpt.label,
                properties=excerpt.properties,
                predicted=[labels[int(row.argmax())] for row in rows],
                probabilities=[round(float(row[labels.index(excerpt.label)]), 4) for row in rows],
            )
        )
    return judged


def recall(judged: Sequence[Judged]) -> dict[str, Any]:
    """Return the share of windows with the right label.

    The windows of an excerpt are alike. So the interval takes the number of excerpts as the number of trials.
    """
    windows = sum(len(each.predicted) for each in judged)
    right = sum(each.predicted.count(each.label) for each in judged)
    count = sum(bool(each.predicted) for each in judged)
    share = right / windows if windows else None
    interval = None if share is None else [round(bound, 4) for bound in wilson_interval(share * count, count)]
    return {
        "excerpts": count,
        "windows": windows,
        "right": right,
        "recall": None if share is None else round(share, 4),
        "interval": interval,
    }


PARTS: Final = (
    ("normal", ("kind",)),
    ("normal", ("view",)),
    ("covered", ("material",)),
    ("covered", ("share",)),
    ("covered", ("focus",)),
    ("covered", ("arrival",)),
    ("covered", ("focus", "arrival")),
    ("covered", ("share", "arrival")),
    ("covered", ("material", "arrival")),
    ("covered", ("material", "focus")),
    *((label, (name,)) for label in GROUPS["first"].forms for name in ("form", "strength")),
)
"""The parts of a group by which recall is given: label and names of properties."""
GROUP_PARTS: Final = (
    ("covered", ("group",)),
    ("covered", ("group", "arrival")),
    *((label, ("group",)) for label in GROUPS["first"].forms),
)
CHANGED_PARTS: Final = (("normal", ("group",)), ("normal", ("kind",)), ("normal", ("kind", "scene")))


def recall_by(judged: Sequence[Judged], parts: Sequence[tuple[str, tuple[str, ...]]]) -> dict[str, dict[str, Any]]:
    """Return the recalls of each part, by the values of its properties."""
    found = {}
    for label, names in parts:
        mine = [(", ".join(each.properties[name] for name in names), each) for each in judged if each.label == label]
        found[f"{label} by {' and '.join(names)}"] = {
            key: recall([each for of, each in mine if of == key]) for key in sorted({of for of, _ in mine})
        }
    return found


def compute_figures(judged: Sequence[Judged], labels: Sequence[str]) -> dict[str, Any]:
    """Return recalls by label and by part, the balanced accuracy over labels, and the confusion of windows."""
    by_label = {label: recall([each for each in judged if each.label == label]) for label in labels}
    shares = [found["recall"] for found in by_label.values() if found["recall"] is not None]
    confusion = {label: Counter[str]() for label in labels}
    for each in judged:
        confusion[each.label].update(each.predicted)
    return {
        "labels": by_label,
        "false_alarms": round(1 - by_label["normal"]["recall"], 4) if by_label["normal"]["windows"] else None,
        "balanced_accuracy": round(float(np.mean(shares)), 4) if shares else None,
        "parts": recall_by(judged, PARTS),
        "confusion": {label: [counts[name] for name in labels] for label, counts in confusion.items()},
    }


def compute_by_group(judged: Sequence[Judged], labels: Sequence[str]) -> dict[str, Any]:
    """Return recalls side by side, and the figures of each group that was judged.

    The undisturbed excerpts belong to each group. The changed ones have rows of their own and belong to none, so that
    the figures of all groups have the same `normal` film.
    """
    changed = [each for each in judged if each.properties.get("group") == CHANGED]
    side_by_side = {**recall_by(judged, GROUP_PARTS), **recall_by(changed, CHANGED_PARTS)}
    names = [name for name in (*GROUPS, PHOTOGRAPHED) if any(each.properties.get("group") == name for each in judged)]
    of = {name: [each for each in judged if each.properties.get("group", name) == name] for name in names}
    figures = {name: compute_figures(found, labels) for name, found in of.items()}
    return {"by_group": side_by_side, "groups": figures}


def as_text(by_group: dict[str, Any]) -> str:
    """Format the figures of `compute_by_group` as tables."""
    head = "| excerpts | windows | recall | 95 % interval |"

    def row(name: str, found: dict[str, Any]) -> str:
        if found["recall"] is None:
            return f"| {name} | 0 | 0 | - | - |"
        low, high = (100 * bound for bound in found["interval"])
        cells = f"{found['excerpts']} | {found['windows']} | {100 * found['recall']:.1f} % | {low:.0f} to {high:.0f} %"
        return f"| {name} | {cells} |"

    def tables(parts: dict[str, dict[str, Any]]) -> list[str]:
        return [
            line
            for part, rows in parts.items()
            if rows
            for line in (f"| {part} {head}", *(row(name, found) for name, found in rows.items()), "")
        ]

    lines = tables(by_group["by_group"])
    for name, figures in by_group["groups"].items():
        accuracy = f"false alarms {figures['false_alarms']}, balanced accuracy {figures['balanced_accuracy']}"
        lines += [f"group {name}: {accuracy}", *tables({"label": figures["labels"], **figures["parts"]})]
        labels = list(figures["confusion"])
        lines.append(f"| windows: truth, predicted | {' | '.join(labels)} |")
        lines += [f"| {label} | {' | '.join(map(str, counts))} |" for label, counts in figures["confusion"].items()]
        lines.append("")
    return "\n".join(lines).rstrip()


def draw_sheet(found: Iterator[Excerpt], path: Path, *, copies: int = 2, columns: int = 4) -> None:
    """Write a picture with four frames of the first excerpts of each form or material, as the model sees them."""
    seen: Counter[tuple[str, ...]] = Counter()
    tiles: list[tuple[tuple[str, ...], U8]] = []
    for excerpt in found:
        names = ("group", "kind", "material", "focus", "form")
        key = (excerpt.label, *(excerpt.properties[name] for name in names if name in excerpt.properties))
        if not excerpt.starts or seen[key] == copies:
            continue
        seen[key] += 1
        frames = excerpt.chunks[excerpt.starts[0] :].reshape(-1, *excerpt.chunks.shape[-3:])
        strip = np.hstack([frames[i] for i in np.linspace(0, len(frames) - 1, 4).round().astype(int)])
        text = " ".join([Path(excerpt.film).name, excerpt.label, *excerpt.properties.values()])
        strip = cv2.copyMakeBorder(cv2.resize(strip, None, fx=0.7, fy=0.7), 14, 2, 0, 6, cv2.BORDER_CONSTANT)
        cv2.putText(strip, text, (2, 11), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (255, 255, 0), 1, cv2.LINE_AA)
        tiles.append((key, np.asarray(strip, np.uint8)))
    strips = [strip for _, strip in sorted(tiles, key=lambda item: item[0])]
    strips += [np.zeros_like(strips[0])] * (-len(strips) % columns)
    sheet = np.vstack([np.hstack(strips[i : i + columns]) for i in range(0, len(strips), columns)])
    cv2.imwrite(str(path), sheet[..., ::-1])


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder with tennis/ and gestures/")
    parser.add_argument("--materials", type=Path, help="the folder of photographs of materials; default DATA/materials")
    parser.add_argument("--bundle", default="camera-events", help="a bundle, by name or folder")
    parser.add_argument("--json", nargs="?", const="-", help="print JSON instead of tables, or write it to a file")
    parser.add_argument("--sheet", type=Path, help="draw a contact sheet, and classify nothing")
    options = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    bundle = find_bundle(options.bundle)
    spec = bundle.spec
    found = excerpts(options.data, spec, find_groups(options.materials or options.data / "materials"))
    if options.sheet:
        draw_sheet(found, options.sheet)
        return
    engine = open_for(bundle)
    judged = judge(engine, found)
    engine.close()
    figures = {"bundle": spec.id, **compute_by_group(judged, spec.labels)}
    text = json.dumps({**figures, "excerpts": [each_as_dict(each) for each in judged]}, indent=1)
    if options.json == "-":
        print(text)
        return
    if options.json:
        Path(options.json).write_text(text + "\n")
    print(spec.id)
    print(as_text(figures))


def find_groups(materials: Path) -> dict[str, Group]:
    """Return `GROUPS` and the group of photographs. Where it is missing, say so on stderr."""
    if (materials / LIST).is_file():
        return {**GROUPS, PHOTOGRAPHED: photographed_group(materials)}
    print(
        f"{materials / LIST}: no such file, so the group {PHOTOGRAPHED!r} is left out; `python -m training download "
        "materials` gets the photographs, and --materials names their folder",
        file=sys.stderr,
    )
    return dict(GROUPS)


def each_as_dict(judged: Judged) -> dict[str, Any]:
    """Return an excerpt's predictions for JSON."""
    return {
        "film": judged.film,
        "label": judged.label,
        **judged.properties,
        "predicted": judged.predicted,
        "probabilities": judged.probabilities,
    }


if __name__ == "__main__":
    main()
