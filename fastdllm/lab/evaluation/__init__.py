"""One run, from prompts to a record; what the notebook's cell calls."""
