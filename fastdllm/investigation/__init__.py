"""What the records and the model say about layer reuse: who broke middle and last, and what a forward costs."""
