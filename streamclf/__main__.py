"""Run the command line, as `streamclf` and as `python -m streamclf`."""

import signal

# Ctrl-C during the imports below ends the process at once, without a traceback. `main` sets another handler.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from streamclf.cli import main

if __name__ == "__main__":
    main()
