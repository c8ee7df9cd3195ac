"""While another process compiles for TensorRT, a fast backend serves; then the compiled engine replaces it."""

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.bundles import make_brightness_bundle, make_other_head
from support.gpu_double import DoubleCompiler, double_platform
from support.repository import ROOT

import engines.backends.tensorrt
import engines.background_upgrade
import engines.opening
import engines.serving
from engines.backends.choice import BackendChoice
from engines.backends.names import Backend
from engines.background_upgrade import EngineUpgrade
from engines.build_process import BuildRequest, main
from engines.bundle import Bundle
from engines.errors import EngineInputError, NotBuiltError
from engines.group import EngineGroup, GroupOptions
from engines.opening import open_engine
from engines.serving import ServingChange, ServingGroup, open_serving

CHILD = ROOT / "tests" / "support" / "build_process_on_double.py"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_brightness_bundle(tmp_path / "brightness")


@pytest.fixture(autouse=True)
def _with_double(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines.opening, "missing_libraries", lambda backend: [])
    monkeypatch.setattr(engines.backends.tensorrt, "load_platform", double_platform)
    order = BackendChoice(order=("tensorrt", "onnxruntime"), reason="a test")
    for module in (engines.opening, engines.serving):
        monkeypatch.setattr(module, "choose_backend", lambda: order)


@pytest.fixture
def start_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let build processes wait until the returned function is called."""
    command = (sys.executable, str(CHILD), str(tmp_path / "go"))
    monkeypatch.setattr(engines.background_upgrade, "BUILD_COMMAND", command)
    return (tmp_path / "go").touch


def options(backend: Backend = "auto") -> GroupOptions:
    return GroupOptions(backend=backend, precision="fp32", max_batch=4, bank_slots=9)


def open_brightness(bundle: Bundle, backend: Backend = "auto") -> ServingGroup:
    return open_serving({"": bundle}, options(backend))


def wait_for_changes(serving: ServingGroup) -> list[ServingChange]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if serving.has_changes:
            return serving.poll()
        time.sleep(0.02)
    pytest.fail("no change after 60 s")


def close(serving: ServingGroup) -> None:
    serving.close()
    serving.group.close()


@pytest.mark.parametrize("backend", ["auto", "tensorrt"])
def test_another_backend_serves_until_the_plan_is_built(
    bundle: Bundle,
    start_builds: Callable[[], None],
    backend: Backend,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    serving = open_brightness(bundle, backend)
    assert serving.group.backend == "onnxruntime"
    assert "serving on onnxruntime" in caplog.text
    assert not serving.has_changes
    assert serving.poll() == []
    slots = np.arange(4, dtype=np.int32)
    serving.group.encode(bundle.golden().frames, slots)
    before = serving.group[""].classify(slots[None])
    monkeypatch.setattr(DoubleCompiler, "build", lambda *_: pytest.fail("the serving process must not build"))
    start_builds()
    stand_in = serving.group
    assert wait_for_changes(serving) == [ServingChange()]
    assert serving.group.backend == "tensorrt"
    assert (serving.group.max_batch, serving.group.owner.bank_slots) == (4, 9)
    np.testing.assert_allclose(serving.group[""].classify(slots[None]), before, atol=1e-4)  # the bank has moved
    with pytest.raises(EngineInputError, match="closed"):
        stand_in.encode(bundle.golden().frames, slots)
    assert serving.poll() == []  # it is returned only once
    close(serving)
    again = open_brightness(bundle, backend)
    assert again.group.backend == "tensorrt"  # from the cache, so no other backend serves first
    close(again)


def test_models_are_added_and_removed_while_another_backend_serves(
    bundle: Bundle, start_builds: Callable[[], None], tmp_path: Path
) -> None:
    """The build begins again with the models that there are then, and all of them move to the GPU together."""
    levels, gone = (make_other_head(tmp_path / name, bundle) for name in ("levels", "gone"))
    serving = open_serving({"": bundle, "gone": gone}, options())
    serving.add("levels", levels.path)
    assert wait_for_changes(serving) == [ServingChange(name="levels")]
    serving.remove("gone")
    assert serving.group.backend == "onnxruntime"
    start_builds()
    assert wait_for_changes(serving) == [ServingChange()]
    assert serving.group.backend == "tensorrt"
    assert list(serving.group) == ["", "levels"]
    more = make_other_head(tmp_path / "more", bundle, labels=("a", "b"), weights=(0.1, -0.1))
    serving.add("more", more.path)  # its plan is not built yet: another process builds it
    assert wait_for_changes(serving) == [ServingChange(name="more")]
    assert serving.group["more"].description.startswith("tensorrt")
    close(serving)


def test_a_fast_backend_opens_without_an_upgrade(bundle: Bundle, start_builds: Callable[[], None]) -> None:
    serving = open_brightness(bundle, backend="onnxruntime")
    assert serving.group.backend == "onnxruntime"
    assert serving.upgrade is None
    close(serving)


def test_without_another_backend_the_engine_is_built_at_once(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    only = BackendChoice(order=("tensorrt",), reason="a test")
    monkeypatch.setattr(engines.serving, "choose_backend", lambda: only)
    serving = open_brightness(bundle)
    assert serving.group.backend == "tensorrt"
    assert "no other backend is installed that could serve meanwhile" in caplog.text
    close(serving)


def test_closing_the_service_stops_the_build(bundle: Bundle, start_builds: Callable[[], None]) -> None:
    serving = open_brightness(bundle)
    assert serving.upgrade is not None
    serving.close()
    assert serving.upgrade.finished.is_set()
    assert not serving.has_changes
    with pytest.raises(NotBuiltError, match="no fp32 plan of its encoder for this GPU yet"):
        open_engine(bundle, backend="tensorrt", precision="fp32", max_batch=4, may_build=False)
    serving.group.close()


def request_for(bundle: Bundle, *, max_batch: int = 4, bank_slots: int = 9) -> BuildRequest:
    return BuildRequest(
        bundle=str(bundle.path),
        backend="tensorrt",
        precision="fp32",
        max_batch=max_batch,
        bank_slots=bank_slots,
        streams=1,
    )


@pytest.mark.parametrize(
    ("code", "timeout_s", "message"),
    [
        ("import os; os.kill(os.getpid(), 11)", 60, "compiling ended with code -11"),
        ("print('Traceback'); raise SystemExit(3)", 60, "compiling ended with code 3"),
        ('print(\'{"error": "operator Det"}\')', 60, "operator Det"),
        ("import time; time.sleep(60)", 0.2, "compiling takes more than 0 s"),
        # The process reports success, but the cache has no plan.
        ("print('{\"max_batch\": 4}')", 60, "no fp32 plan of its encoder for this GPU yet"),
    ],
)
def test_a_build_that_fails_is_logged_and_gives_no_engine(
    bundle: Bundle, code: str, timeout_s: float, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    command = [sys.executable, "-c", code]
    upgrade = EngineUpgrade({"": bundle}, options("tensorrt"), command=command, timeout_s=timeout_s)
    assert upgrade.finished.wait(60)
    assert upgrade.claim() is None
    assert f"{message}; the present engine goes on serving" in caplog.text
    upgrade.close()


def test_an_engine_that_is_not_claimed_is_closed(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    open_engine(bundle, backend="tensorrt", precision="fp32", max_batch=4, bank_slots=9).close()
    platform = double_platform()
    monkeypatch.setattr(engines.backends.tensorrt, "load_platform", lambda _: platform)
    command = [sys.executable, "-c", "print('{\"max_batch\": 4}')"]
    upgrade = EngineUpgrade({"": bundle}, options("tensorrt"), command=command)
    assert upgrade.finished.wait(60)
    assert not platform.cuda.closed  # type: ignore[attr-defined]
    upgrade.close()
    assert platform.cuda.closed  # type: ignore[attr-defined]


def test_the_build_process_prints_why_it_failed(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    (bundle.path / "encoder.onnx").write_bytes(b"altered")
    assert main([request_for(bundle).as_json()]) == 1
    assert "encoder.onnx: sha256 is" in capsys.readouterr().out


def test_the_upgrade_loads_the_batch_that_the_build_could_fit_into_memory(
    bundle: Bundle,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(
        engines.backends.tensorrt,
        "load_platform",
        lambda _: double_platform(memory_bytes=300_000, scratch_bytes=20_000),
    )
    request = request_for(bundle, max_batch=64, bank_slots=64)
    assert main([request.as_json()]) == 0
    printed = capsys.readouterr().out
    assert printed == '{"max_batch": 8}\n'
    wanted = replace(options("tensorrt"), max_batch=64, bank_slots=64)
    upgrade = EngineUpgrade({"": bundle}, wanted, command=[sys.executable, "-c", f"print({printed!r})"])
    assert upgrade.finished.wait(60)
    group = upgrade.claim()
    assert isinstance(group, EngineGroup)
    assert group.max_batch == 8
    group.close()
    upgrade.close()
