"""`python -m streamclf.capture`, as the supervisor starts it."""

from streamclf.capture.process import main
from streamclf.runtime.child import run_child
from streamclf.runtime.jobs import CaptureJob

if __name__ == "__main__":
    run_child("capture", CaptureJob, main)
