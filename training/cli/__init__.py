"""Define the commands of `python -m training`; each imports the modules that do its work and calls them.

Heavy imports stay inside the commands, so that `--help` starts quickly. `training/__main__.py` reports their errors.
"""
