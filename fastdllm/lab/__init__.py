"""The lab: what is to run, what runs it, and what is kept of it."""
