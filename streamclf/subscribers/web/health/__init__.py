"""Report the state of a service: its streams, processes, journal, disks, outlets and log."""
