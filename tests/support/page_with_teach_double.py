"""Run `streamclf` with a double of `streamclf teach`, which reports as it does and writes a small bundle at once."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def teach(folder: Path, bundle: Path) -> int:
    """Report a training as `streamclf teach --json` does."""
    from support.bundles import make_brightness_bundle

    def say(event: str, **more: Any) -> None:
        print(json.dumps({"event": event, **more}), flush=True)

    films = sorted(each for each in folder.glob("*/*.mp4") if not each.parent.name.startswith("."))
    labels = sorted({each.parent.name for each in films})
    say("start", labels={label: sum(each.parent.name == label for each in films) for label in labels})
    for number, film in enumerate(films, 1):
        name = film.relative_to(folder).as_posix()
        say("progress", stage="read", share=0.8 * number / len(films), film=name, left_s=1.0)
    while (folder / ".wait").exists():  # a test looks at a training that goes on
        time.sleep(0.02)
    if (folder / ".fail").exists():
        say("error", message="open: all films are the same", code=2)
        return 2
    make_brightness_bundle(bundle)
    wrong = {"film": films[0].relative_to(folder).as_posix(), "label": labels[0], "predicted": labels[-1]}
    say(
        "done", bundle=str(bundle), labels=[*labels, "none of these"], none_label="none of these",
        balanced_accuracy=0.91, interval=[0.8, 0.97], per_label=[{"label": label} for label in labels],
        confusion=[[4, 1, 0], [0, 5, 0]], wrong=[{**wrong, "probability": 0.7}], advice=["Add a film at night."],
    )  # fmt: skip
    return 0


def main() -> int:
    """Act as `streamclf teach` after the word teach, else as `streamclf`."""
    if sys.argv[1:2] == ["teach"]:
        return teach(Path(sys.argv[2]), Path(sys.argv[4]))
    from streamclf.__main__ import main as streamclf_main
    from streamclf.subscribers.web.teach.training import TeachRunner

    start = TeachRunner.__init__

    def start_with_double(runner: TeachRunner) -> None:
        start(runner, [sys.executable, os.path.abspath(__file__), "teach"])  # noqa: PTH100

    TeachRunner.__init__ = start_with_double  # type: ignore[assignment, method-assign]
    streamclf_main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
