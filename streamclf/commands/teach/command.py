"""Run `streamclf teach`: teach a model from a folder of labelled films."""

from __future__ import annotations

from engines.bundle import MAX_LABEL_CHARS
from engines.errors import EngineError
from engines.printable import path_text, printable
from streamclf.commands.teach.listeners import JsonListener, TerminalListener
from streamclf.commands.teach.report import report_page
from streamclf.commands.teach.result import describe, next_steps, to_json
from streamclf.errors import StreamclfError, UsageError
from streamclf.redact import redact
from streamclf.runtime.interrupts import describe_work
from streamclf.runtime.logs import configure_logging
from streamclf.teach.bundle_writer import REPORT_FILE
from streamclf.teach.inputs import TeachOptions
from streamclf.teach.teaching import teach


def run_teach(options: TeachOptions, *, as_json: bool) -> int:
    """Teach a model and print the result; return the exit code.

    With `as_json` an error is also the last line on stdout. Raises the errors of `teach`.
    """
    if options.none_label is not None and not 0 < len(options.none_label.strip()) <= MAX_LABEL_CHARS:
        raise UsageError(f"--none-label {options.none_label!r:.80}: 1 to {MAX_LABEL_CHARS} characters")
    configure_logging("teach", "warning")
    describe_work(lambda: f"nothing was written to {path_text(options.output)}")
    if not as_json:
        with TerminalListener() as listener:
            taught = teach(options, listener, report_page)
        describe_work(lambda: "")
        print("\n".join(describe(taught)))
        passed = f", {len(taught.faults)} films passed over" if taught.faults else ""
        seconds = ", ".join(f"{name} {value:.1f}" for name, value in taught.seconds.items())
        print(f"\n{path_text(taught.output)}: {taught.name}@{taught.version}{passed} (seconds: {seconds})")
        print(f"Report: {path_text(taught.output / REPORT_FILE)}\n\n{next_steps(taught)}")
        return 0
    lines = JsonListener(path_text(options.output))
    try:
        taught = teach(options, lines, report_page)
    except (StreamclfError, EngineError) as error:
        code = 2 if isinstance(error, UsageError) else 1
        lines.print(event="error", message=printable(redact(str(error))), code=code)
        raise
    describe_work(lambda: "")
    lines.print(**to_json(taught))
    return 0
