"""Stage 1: run the encoders and the aligner once, and write what they say to a cache."""
