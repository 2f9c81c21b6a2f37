"""Who broke middle and last: bisection, inspection of layers, similarity, phase 6, open questions."""
