"""Run `python -m streamclf.capture`, the command with which the supervisor starts a capture process."""

from streamclf.capture.process import main
from streamclf.runtime.child import run_child
from streamclf.runtime.jobs import CaptureJob

if __name__ == "__main__":
    run_child("capture", CaptureJob, main)
