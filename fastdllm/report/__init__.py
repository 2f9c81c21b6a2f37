"""Statistics, tables, plots, the audit of results, widgets, the gallery: what a reader sees."""
