"""Run `python -m streamclf.classifier`, the command with which the supervisor starts the classifier process."""

from streamclf.classifier.process import main
from streamclf.runtime.child import run_child
from streamclf.runtime.jobs import ClassifierJob

if __name__ == "__main__":
    run_child("classifier", ClassifierJob.model_validate_json, main)
