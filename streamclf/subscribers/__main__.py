"""Run `python -m streamclf.subscribers`, the command with which the supervisor starts the process of an outlet."""

from streamclf.runtime.child import run_child
from streamclf.runtime.jobs import OutletJob
from streamclf.subscribers.child import main

if __name__ == "__main__":
    run_child("outlet", OutletJob.model_validate_json, main)
