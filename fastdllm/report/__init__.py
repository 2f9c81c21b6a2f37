"""Reads records, runs nothing: results, tables, criteria, figures, pages."""
