"""Training of a delta on pretrained weights: problems and drills, packed rows, low-rank sums, and its own loop."""
