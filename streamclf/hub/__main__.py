"""Run `python -m streamclf.hub`, the command with which the supervisor starts the hub process."""

from streamclf.hub.process import main
from streamclf.runtime.child import run_child
from streamclf.runtime.jobs import HubJob

if __name__ == "__main__":
    run_child("hub", HubJob.model_validate_json, main)
