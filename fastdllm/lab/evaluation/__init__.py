"""One run, from prompts to a record; the notebook's cell."""
