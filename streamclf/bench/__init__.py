"""`streamclf bench`: what a model, a service or a whole machine does, measured on the machine itself."""
