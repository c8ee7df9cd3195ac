"""Give the processes of a service a GPU that computes in host memory: see cuda_driver.c and gpu_double.py.

Python imports a module of this name at its start if the folder is in PYTHONPATH. Child processes inherit that.
"""

import sys

if "streamclf.capture" in sys.orig_argv:
    from support.card_frames import decode_on_card

    decode_on_card()
elif {"streamclf", "streamclf.classifier", "engines.build_process"} & set(sys.orig_argv):
    from support.host_device import use_host_devices

    use_host_devices()
