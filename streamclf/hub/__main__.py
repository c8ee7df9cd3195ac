"""`python -m streamclf.hub`, as the supervisor starts it."""

from streamclf.child import run_child
from streamclf.hub.process import main
from streamclf.jobs import HubJob

if __name__ == "__main__":
    run_child("hub", HubJob, main)
