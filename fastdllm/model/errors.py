"""Why decoding can't go on: every error says where (row, block, step, layer) and names what is wrong there."""


class DecodingError(RuntimeError):
    """Decoding can't go on. Bad settings are a ValueError before any work; this comes up during it."""


class MissingBlockCache(DecodingError):
    """A small forward needs a block-cache entry that no forward of this block has written."""


class NonFiniteLogits(DecodingError):
    """A logit is nan or infinite; the message names layer and step."""


class NothingUnmasked(DecodingError):
    """A denoising step left its small block as it was; the next would be the same again, without end."""
