"""Run the streams of one configuration on several machines, with Ray: the same service on each, for its share."""
