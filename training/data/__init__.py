"""Labelled clips from lists, folders, volumes and makers, decoded once by the service's own code."""
