"""While TensorRT compiles, in a process of its own, another backend serves; then the compiled engine takes over."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.bundles import make_brightness_bundle
from support.gpu_double import DoubleCompiler, double_platform
from support.repository import ROOT

import engines.backends.tensorrt
import engines.background_upgrade
import engines.opening
from engines.backends.choice import BackendChoice
from engines.background_upgrade import Upgrade, open_serving
from engines.build_process import BuildRequest, main
from engines.bundle import Bundle
from engines.errors import NotBuiltError
from engines.opening import open_engine
from engines.protocol import Engine

CHILD = ROOT / "tests" / "support" / "build_process_on_double.py"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_brightness_bundle(tmp_path / "brightness")


@pytest.fixture(autouse=True)
def _with_double(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMCLF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(engines.opening, "missing_libraries", lambda backend: [])
    monkeypatch.setattr(engines.backends.tensorrt, "load_platform", double_platform)
    order = BackendChoice(order=("tensorrt", "onnxruntime"), reason="a test")
    for module in (engines.opening, engines.background_upgrade):
        monkeypatch.setattr(module, "choose_backend", lambda: order)


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Builds in other processes begin when this is called."""
    monkeypatch.setattr(engines.background_upgrade, "BUILDER", (sys.executable, str(CHILD), str(tmp_path / "go")))
    return (tmp_path / "go").touch


def serving(bundle: Bundle, **words: object) -> engines.background_upgrade.ServingEngine:
    return open_serving(bundle, precision="fp32", max_batch=4, bank_slots=9, **words)  # type: ignore[arg-type]


def soon(opening: engines.background_upgrade.ServingEngine) -> Engine:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if (engine := opening.better()) is not None:
            return engine
        time.sleep(0.02)
    pytest.fail("no better engine came")


@pytest.mark.parametrize("backend", ["auto", "tensorrt"])
def test_another_backend_serves_until_the_plan_is_built(
    bundle: Bundle,
    go: Callable[[], None],
    backend: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opening = serving(bundle, backend=backend)
    assert opening.engine.description.startswith("onnxruntime")
    assert "serving on onnxruntime" in caplog.text
    assert opening.better() is None
    opening.engine.encode(bundle.golden().frames, np.arange(4, dtype=np.int32))
    monkeypatch.setattr(DoubleCompiler, "build", lambda *_: pytest.fail("this process is not to build"))
    go()
    better = soon(opening)
    assert better.description.startswith("tensorrt")
    assert (better.max_batch, better.bank_slots) == (4, 9)
    assert opening.better() is None  # it is given once
    for engine in (better, opening.engine):
        engine.close()
    opening.close()
    again = serving(bundle, backend=backend)
    assert again.engine.description.startswith("tensorrt")  # it is in the cache: nobody stands in
    again.engine.close()
    again.close()


def test_nothing_to_build_nobody_stands_in(bundle: Bundle, go: Callable[[], None]) -> None:
    opening = serving(bundle, backend="onnxruntime")
    assert opening.engine.description.startswith("onnxruntime")
    opening.close()
    opening.engine.close()


def test_without_another_backend_it_is_built_at_once(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(
        engines.background_upgrade, "choose_backend", lambda: BackendChoice(order=("tensorrt",), reason="a test")
    )
    opening = serving(bundle)
    assert opening.engine.description.startswith("tensorrt")
    assert "no other backend is installed that could serve meanwhile" in caplog.text
    opening.engine.close()


def test_a_service_that_ends_ends_the_build(bundle: Bundle, go: Callable[[], None]) -> None:
    opening = serving(bundle)
    upgrade = opening._upgrade
    assert upgrade is not None
    opening.close()
    assert upgrade.finished.is_set()
    assert opening.better() is None
    with pytest.raises(NotBuiltError, match="no fp32 plan of its encoder for this GPU yet"):
        open_engine(bundle, backend="tensorrt", precision="fp32", max_batch=4, may_build=False)
    opening.engine.close()


def wish_for(bundle: Bundle) -> BuildRequest:
    return BuildRequest(
        bundle=str(bundle.path), backend="tensorrt", precision="fp32", max_batch=4, bank_slots=9, streams=1
    )  # fmt: skip


@pytest.mark.parametrize(
    ("code", "build_s", "said"),
    [
        ("import os; os.kill(os.getpid(), 11)", 60, "compiling ended with code -11"),
        ("print('Traceback'); raise SystemExit(3)", 60, "compiling ended with code 3"),
        ('print(\'{"error": "operator Det"}\')', 60, "operator Det"),
        ("import time; time.sleep(60)", 0.2, "compiling takes more than 0 s"),
        ("print('{\"max_batch\": 4}')", 60, "no fp32 plan of its encoder for this GPU yet"),  # it lies
    ],
)
def test_a_build_that_fails_is_said_and_no_more(
    bundle: Bundle, code: str, build_s: float, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    upgrade = Upgrade(bundle, wish_for(bundle), [sys.executable, "-c", code], build_s=build_s)
    assert upgrade.finished.wait(60)
    assert upgrade.take() is None
    assert f"{said}; what serves now goes on" in caplog.text
    upgrade.close()


def test_an_engine_that_nobody_took_is_closed(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    open_engine(bundle, backend="tensorrt", precision="fp32", max_batch=4, bank_slots=9).close()
    platform = double_platform()
    monkeypatch.setattr(engines.backends.tensorrt, "load_platform", lambda: platform)
    upgrade = Upgrade(bundle, wish_for(bundle), [sys.executable, "-c", "print('{\"max_batch\": 4}')"])
    assert upgrade.finished.wait(60)
    assert not platform.cuda.closed  # type: ignore[attr-defined]
    upgrade.close()
    assert platform.cuda.closed  # type: ignore[attr-defined]


def test_the_builder_says_what_went_wrong(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    (bundle.path / "encoder.onnx").write_bytes(b"altered")
    assert main([wish_for(bundle).as_json()]) == 1
    assert "encoder.onnx: sha256 is" in capsys.readouterr().out


def test_the_batch_that_memory_holds_is_the_one_that_is_loaded(
    bundle: Bundle,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(
        engines.backends.tensorrt, "load_platform", lambda: double_platform(memory_bytes=300_000, scratch_bytes=20_000)
    )
    wish = BuildRequest(
        bundle=str(bundle.path), backend="tensorrt", precision="fp32", max_batch=64, bank_slots=64, streams=1
    )  # fmt: skip
    assert main([wish.as_json()]) == 0
    said = capsys.readouterr().out
    assert said == '{"max_batch": 8}\n'
    upgrade = Upgrade(bundle, wish, [sys.executable, "-c", f"print({said!r})"])
    assert upgrade.finished.wait(60)
    engine = upgrade.take()
    assert engine is not None
    assert engine.max_batch == 8
    engine.close()
    upgrade.close()
