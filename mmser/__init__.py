"""mmser: frozen speech and text encoders run once, fusion heads trained many at a time."""

__version__ = "0.1.0"
