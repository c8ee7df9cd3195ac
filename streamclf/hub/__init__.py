"""The process that everything goes through, `python -m streamclf.hub`: drafts are journalled, published, replayed."""
