"""The denoising loop, sampling, reuse policies and wrappers, revisions and traces; nothing is imported here."""
