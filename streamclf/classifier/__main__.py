"""Run the classifier process: `python -m streamclf.classifier`, as the supervisor starts it."""

from streamclf.classifier.process import main
from streamclf.runtime.child import run_child
from streamclf.runtime.jobs import ClassifierJob

if __name__ == "__main__":
    run_child("classifier", ClassifierJob, main)
