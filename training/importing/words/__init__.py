"""Import text-and-image models of Hugging Face as bundles whose labels are texts (zero-shot classification)."""
