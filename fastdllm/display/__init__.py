"""The look of everything: palette and figure style, tables as text, notebooks as HTML."""
