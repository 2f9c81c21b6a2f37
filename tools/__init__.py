"""Maintainers' scripts: nothing here is part of the package."""
