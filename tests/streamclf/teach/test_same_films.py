"""Films of the page's examples that follow each other are one recording, unless they have different labels."""

from __future__ import annotations

import numpy as np

from streamclf.teach.clip_features import ClipFeatures
from streamclf.teach.examples import Example, ExampleRow
from streamclf.teach.limits import ADJACENT_S
from streamclf.teach.same_films import group_examples


def film(label: str, began: float | None) -> Example:
    """Return an example of 2 s, of a scene in which nothing moves."""
    name = f"{label}/{began}.mp4"
    row = ExampleRow(
        name=name, label=label, group=name, sha256=f"{abs(hash(name)):064x}"[:64], began=began, windows=1, chunks=1
    )
    content = ClipFeatures(
        features=np.zeros((1, 3), np.float32),
        windows=np.zeros((1, 1), np.int32),
        times=np.array([[0.0, 2.0]]),
        thumbs=np.zeros((1, 8, 8), np.uint8),
        stills=[b""],
    )
    return Example(row=row, content=content)


def groups(*films: Example) -> int:
    return len(set(group_examples(films)[0].tolist()))


def test_films_of_one_label_within_seconds_are_one_recording() -> None:
    assert groups(film("open", 0.0), film("open", 3.0), film("open", 6.0)) == 1
    assert groups(film("open", 0.0), film("open", 2.0 + ADJACENT_S)) == 2
    assert groups(film("open", None), film("open", 1.0)) == 2


def test_labels_that_are_given_in_turn_stay_apart() -> None:
    """A user who marks what happens gives them a few seconds after each other; all of it was one recording."""
    turns = [film(label, at) for label, at in (("open", 0.0), ("shut", 4.0), ("open", 8.0), ("shut", 12.0))]
    assert groups(*turns) == 4
