"""Aligners: which word, syllable and phone was spoken when."""
