"""The user's mistakes, and the world's: each says where, what was found, what was expected and what to do.

Everything here derives from :class:`MmserError`, which the command line prints as ``Error: ...`` without a
traceback. Our own mistakes are ``assert``.
"""


class MmserError(Exception):
    """Base of every error a user can cause and mend."""


class ManifestError(MmserError):
    """The table of utterances is unusable: missing column, duplicate id, unreadable number."""


class AudioError(MmserError):
    """A recording cannot be used: missing, unreadable, empty, too short, silent, not finite."""


class AlignmentError(MmserError):
    """An alignment cannot be made or contradicts itself."""


class EncoderError(MmserError):
    """An encoder cannot be loaded, or cannot encode an utterance."""


class CacheError(MmserError):
    """A cache is missing, damaged, of another schema, or made by another recipe."""


class ProtocolError(MmserError):
    """Folds, labels or features do not allow the training that was asked for."""
