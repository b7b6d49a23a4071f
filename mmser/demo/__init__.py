"""The demo's corpus: a small acted one, spoken by espeak-ng, so that everything can be tried without any download."""
