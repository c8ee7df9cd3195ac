"""Ask the questions of `streamclf init` on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Final, TypeVar

from engines.printable import printable
from streamclf.errors import UsageError
from streamclf.redact import redact
from streamclf.runtime.interrupts import Interrupted

ATTEMPTS: Final = 5
_YES: Final = {"y": True, "yes": True, "n": False, "no": False}

AnswerT = TypeVar("AnswerT")


def has_terminal() -> bool:
    """Return whether a person can answer: standard input and output are a terminal."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()


def ask(question: str, default: str, parse: Callable[[str], AnswerT]) -> AnswerT:
    """Ask until `parse` accepts the answer; an empty answer is `default`.

    Raises `UsageError` after five answers that `parse` refuses, and at the end of the input.
    """
    for _ in range(ATTEMPTS):
        try:
            answer = input(f"{question} [{default}]: " if default else f"{question}: ").strip()
        except (EOFError, Interrupted) as error:
            print()  # the cursor is behind the question
            if isinstance(error, Interrupted):
                raise
            raise UsageError("the input ended before the last answer; nothing was written") from None
        except UnicodeDecodeError:
            answer = "\0"
        try:
            return parse(answer or default)
        except UsageError as error:
            print(f"  {printable(redact(str(error)))}")
    raise UsageError(f"{ATTEMPTS} answers that cannot be used; nothing was written")


def ask_yes(question: str, default: bool) -> bool:
    """Ask a question whose answer is yes or no."""
    return ask(f"{question} (yes, no)", "yes" if default else "no", _parse_yes)


def _parse_yes(answer: str) -> bool:
    if answer.lower() not in _YES:
        raise UsageError("answer yes or no")
    return _YES[answer.lower()]
