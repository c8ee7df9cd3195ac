"""Run `python -m streamclf.capture`, the command with which the supervisor starts a capture process."""

from functools import partial

from streamclf.capture.process import main
from streamclf.runtime.capture_job import CaptureJob
from streamclf.runtime.child import run_child
from streamclf.runtime.plain_messages import decode_message

if __name__ == "__main__":
    run_child("capture", partial(decode_message, CaptureJob), main)
