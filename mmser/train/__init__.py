"""Stage 2: train many heads on a cache, under a protocol that cannot leak."""
