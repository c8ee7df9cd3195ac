"""Describe how a service is: its streams, processes, journal, disks, outlets and log."""
