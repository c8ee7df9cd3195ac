"""Serve the page: live pictures, events, health and settings of a service, in a browser and over REST."""
