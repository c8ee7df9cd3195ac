"""Parse the command line; each command imports the module that does its work and calls it.

Heavy imports stay inside the commands, so that `streamclf --help` starts quickly.
"""

from __future__ import annotations

import signal
import sys

import typer

from streamclf.cli.app import app


def main() -> None:
    """Run the command line and exit: 0 done, 1 failed while running, 2 wrong usage or configuration, 130 interrupted.

    Every error that the project raises is one line on stderr, and so is Ctrl-C.
    """
    from streamclf.redact import redact_uncaught_errors
    from streamclf.runtime.interrupts import catch_interrupts, exit_interrupted, is_interrupted
    from streamclf.runtime.standard_streams import prepare_standard_streams

    try:
        redact_uncaught_errors()
        prepare_standard_streams()
        catch_interrupts(_command_name(sys.argv[1:]))
        code = _run(sys.argv[1:])
        if is_interrupted():  # a library has caught the exception
            exit_interrupted()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    except BaseException:
        if is_interrupted():
            exit_interrupted()
        raise
    sys.exit(code)


def _command_name(arguments: list[str]) -> str:
    first = next((argument for argument in arguments if not argument.startswith("-")), None)
    names = {info.name for info in app.registered_commands}
    return f"streamclf {first}" if first in names else "streamclf"


def _run(arguments: list[str]) -> int:
    from streamclf.errors import OutputError

    code = _main(arguments)
    try:
        sys.stdout.flush()
    except OutputError as error:
        code = _print_error(error, code or 1)
    return code


def _main(arguments: list[str]) -> int:
    from engines.errors import EngineError
    from streamclf.errors import ConfigError, StreamclfError, UsageError

    # The base class of typer's usage errors has moved between versions; BadParameter derives from it in each version.
    command_line_error: type[Exception] = next(
        kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
    )
    try:
        return app(arguments, prog_name="streamclf", standalone_mode=False) or 0
    except ConfigError as error:
        return _print_error(error, 2)
    except UsageError as error:
        return _print_error(_name_help(str(error), _command_name(arguments)), 2)
    except (StreamclfError, EngineError) as error:
        return _print_error(error, 1)
    except command_line_error as error:
        message: str = error.format_message()  # type: ignore[attr-defined]  # every version has it
        if type(error).__name__ == "NoArgsIsHelpError":
            print(message)
            return 2
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None and context.parent is not None else "streamclf"
        return _print_error(_name_help(message.replace(": Value error, ", ": "), command), 2)


def _name_help(text: str, command: str) -> str:
    stop = "" if text.endswith((".", "?")) else "."
    return f"{text}{stop} See: {command} --help"


def _print_error(error: object, code: int) -> int:
    """Print an error on one line of stderr, without credentials and control characters; return `code`.

    The line has the form of the log if that is JSON, so that a program can read all lines.
    """
    from engines.printable import printable
    from streamclf.redact import redact
    from streamclf.runtime.logs import log_as_json

    if not log_as_json(str(error)):
        print(f"streamclf: {printable(redact(str(error)))}", file=sys.stderr)
    return code
