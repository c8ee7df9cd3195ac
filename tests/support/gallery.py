"""Make the pictures of the documentation from real films: the page, the terminal, a film with labels, and a report.

    make gallery CLIPS="car-detection.mp4 people.mp4"

The built-in model recognises events that happen to a camera, so the script makes films in which the real cameras of
CLIPS are covered, shaken and so on. It runs a real service on them, and saves pictures of its page by Chromium.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import av
import cv2
import numpy as np
import orjson
from rich.console import Console
from support.browser import Tab, open_tab, start_chromium

import streamclf
from streamclf.render.terminal_table import LiveTable

IMAGES: Final = Path(__file__).resolve().parents[2] / "docs" / "images"
MAX_BYTES: Final = 150_000
FPS, WIDTH, HEIGHT = 20, 640, 360
SCENES: Final = ("covered", "shaking", "defocused", "flashing")
NORMAL_S, EVENT_S = 6.0, 3.5
SERVICE_S: Final = 45.0
"""Time in which the service sees several events before the pictures are taken."""
NAMES: Final = ("Car park", "Bottling line", "Entrance", "Corridor", "Yard", "Ramp")
_RUNNING: Final = "[...document.querySelectorAll('.tile[data-action=yes] .tile-link')].map(link => link.href)"
"""JavaScript: the links of the streams that have an action in progress."""
_QUALITIES: Final = (90, 80, 70, 55, 40)


def main() -> int:
    """Make all pictures; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path, help="films of 10 s or more")
    parser.add_argument("-o", "--output", type=Path, default=IMAGES)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gallery-") as name:
        folder = Path(name)
        films = [folder / f"camera{index}.mp4" for index in range(len(given.clips))]
        for index, (clip, film) in enumerate(zip(given.clips, films, strict=True)):
            write_film(clip, film, SCENES[index % len(SCENES) :] + SCENES[: index % len(SCENES)], 3.0 * index)
            print(f"{clip.name}: a film with events", flush=True)
        with start_chromium() as browser:
            picture_report(browser, films[0], folder, given.output)
            picture_service(browser, films, folder, given.output)
    return 0


def write_film(clip: Path, film: Path, scenes: tuple[str, ...], delay_s: float) -> None:
    """Write a film of `clip` in which the camera suffers each of `scenes` in turn, with normal pictures between."""
    frames = repeated_frames(clip)
    with av.open(str(film), "w") as container:
        stream: Any = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = WIDTH, HEIGHT, "yuv420p", FPS
        random = np.random.default_rng(7)
        parts = [
            ("normal", delay_s),
            *itertools.chain.from_iterable((("normal", NORMAL_S), (s, EVENT_S)) for s in scenes),
        ]
        for scene, seconds in parts:
            for number in range(int(seconds * FPS)):
                image = disturb(next(frames), scene, number / (seconds * FPS), random)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "bgr24")))
        container.mux(stream.encode(None))


def repeated_frames(clip: Path) -> Iterator[np.ndarray[Any, np.dtype[np.uint8]]]:
    """Yield the pictures of `clip`, (360, 640, 3) uint8 BGR at 20 a second, again and again."""
    while True:
        due_s = 0.0
        with av.open(str(clip)) as container:
            for frame in container.decode(video=0):
                while frame.time is not None and frame.time >= due_s:
                    due_s += 1 / FPS
                    yield fit(frame.to_ndarray(format="bgr24"))


def fit(image: Any) -> Any:
    """Scale and crop to 16:9."""
    scale = max(WIDTH / image.shape[1], HEIGHT / image.shape[0])
    scaled = cv2.resize(
        image, (round(image.shape[1] * scale), round(image.shape[0] * scale)), interpolation=cv2.INTER_AREA
    )
    top, left = (scaled.shape[0] - HEIGHT) // 2, (scaled.shape[1] - WIDTH) // 2
    return np.ascontiguousarray(scaled[top : top + HEIGHT, left : left + WIDTH])


def disturb(image: Any, scene: str, progress: float, random: np.random.Generator) -> Any:
    """Draw what happens to the camera in `scene` at `progress` (0 to 1) of it."""
    if scene == "covered":
        cover = cv2.GaussianBlur(np.full_like(image, (28, 34, 46)), (0, 0), 3)
        depth = int(HEIGHT * min(1.0, 4 * progress, 4 * (1 - progress)))
        image[:depth] = cover[:depth]
    elif scene == "defocused":
        image = cv2.GaussianBlur(image, (0, 0), 1 + 7 * min(1.0, 4 * progress, 4 * (1 - progress)))
    elif scene == "flashing":
        image = cv2.convertScaleAbs(image, alpha=1.0, beta=90 if int(progress * EVENT_S * 4) % 2 else -60)
    elif scene == "shaking":
        shift = np.float32([[1, 0, random.normal(0, 14)], [0, 1, random.normal(0, 14)]])
        image = cv2.warpAffine(image, shift, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT)
    return image


def run(*arguments: str, cwd: Path) -> None:
    """Run a command of streamclf to its end."""
    subprocess.run([sys.executable, "-m", "streamclf", *arguments], cwd=cwd, check=True, stdout=subprocess.DEVNULL)


def picture_report(browser: Any, film: Path, folder: Path, output: Path) -> None:
    """Classify a film; save a picture of the report, and one frame of the film with its labels."""
    run("classify", film.name, "-o", "labelled.mp4", "--report", "report.html", cwd=folder)
    at_s = 2 * NORMAL_S + EVENT_S * 1.7  # within the second scene
    with av.open(str(folder / "labelled.mp4")) as container:
        frame = next(frame for frame in container.decode(video=0) if frame.time is not None and frame.time >= at_s)
        save(frame.to_ndarray(format="bgr24"), output / "labelled.webp")
    context = browser.new_context(viewport={"width": 1200, "height": 900}, color_scheme="light")
    page = context.new_page()
    page.goto((folder / "report.html").as_uri())
    save_page(page, output / "report.webp")
    context.close()


def picture_service(browser: Any, films: list[Path], folder: Path, output: Path) -> None:
    """Run a service on the films; save pictures of the terminal and of all tabs of the page."""
    config = {
        "model": "camera-events",
        "streams": {
            f"camera{index}": {"url": film.name, "loop": True, "name": NAMES[index % len(NAMES)]}
            for index, film in enumerate(films)
        },
        "actions": {label: {"on": 0.6, "off": 0.4, "min_s": 0.4} for label in SCENES},
        "publish": {"events": f"ipc://{folder}/events", "replay": f"ipc://{folder}/replay"},
        "clips": {"before_s": 3, "after_s": 2},
        "outlets": {"web": {"port": 18765}},
    }
    (folder / "service.yaml").write_bytes(orjson.dumps(config))
    service = subprocess.Popen([sys.executable, "-m", "streamclf", "run", "service.yaml"], cwd=folder)
    try:
        base = "http://127.0.0.1:18765"
        picture_terminal(browser, f"ipc://{folder}/events", output)
        for theme, size, suffix in (("dark", (1440, 860), ""), ("light", (390, 844), "-phone")):
            with open_tab(browser, base, viewport={"width": size[0], "height": size[1]}, color_scheme=theme) as tab:
                picture_tabs(tab, output, suffix)
    finally:
        service.send_signal(signal.SIGINT)
        service.wait(30)


def picture_terminal(browser: Any, endpoint: str, output: Path) -> None:
    """Save a picture of the table that `streamclf status` draws, when the service has run for a while."""
    table = LiveTable("streamclf status", endpoint)
    end_s = time.monotonic() + SERVICE_S
    with streamclf.subscribe(endpoint) as events:
        while (left_s := end_s - time.monotonic()) > 0:
            if (event := events.receive(left_s)) is not None:
                table.apply(event)
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        console = Console(
            record=True, width=110, height=28, file=nowhere, force_terminal=True, color_system="truecolor"
        )
        console.print(table)
    html = console.export_html(inline_styles=True)
    context = browser.new_context(viewport={"width": 1110, "height": 400}, offline=True)
    page = context.new_page()
    page.set_content(html)
    page.add_style_tag(content="html, body { background: #14171a; color: #dfe3e6; margin: 12px }")
    save_page(page, output / "terminal.webp")
    context.close()


def picture_tabs(tab: Tab, output: Path, suffix: str) -> None:
    """Save a picture of each tab."""
    page = tab.open("/live")
    page.wait_for_timeout(3000)
    # Wait until an action begins: while it ends, the picture no longer shows the reason for it.
    page.wait_for_function(f"before => {_RUNNING}.some(each => !before.includes(each))", arg=page.evaluate(_RUNNING))
    page.wait_for_timeout(300)
    save_page(page, output / f"page-live{suffix}.webp")
    page = tab.open("/events")
    page.locator(".event-row img").first.wait_for()
    page.locator(".event-row", has=page.locator("img"), has_text=SCENES[1]).first.click()
    page.wait_for_timeout(1500)
    page.evaluate("document.querySelector('video').pause()")
    save_page(page, output / f"page-events{suffix}.webp")
    if suffix:
        return
    for path, name in (("/live/camera0", "camera"), ("/health", "health"), ("/settings", "settings")):
        page = tab.open(path)
        page.wait_for_timeout(5000)
        save_page(page, output / f"page-{name}.webp")


def save_page(page: Any, path: Path) -> None:
    """Save a picture of the visible part of a browser's page."""
    save(cv2.imdecode(np.frombuffer(page.screenshot(), np.uint8), cv2.IMREAD_COLOR), path)


def save(image: Any, path: Path) -> None:
    """Save a picture as WebP with at most 150 kB."""
    for quality in _QUALITIES:
        data = cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes()
        if len(data) <= MAX_BYTES:
            break
    path.write_bytes(data)
    print(f"{path.name}: {len(data) // 1000} kB", flush=True)


if __name__ == "__main__":
    sys.exit(main())
