"""Run and watch child processes: jobs, liveness, control channel, signals, shared memory."""
