"""Records held against each other, whoever ran them: `sides` reads, `pairs` counts, `text` and `page` show."""
