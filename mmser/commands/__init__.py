"""The commands, a stage a file: each parses its options, calls one function and prints what it says."""

EXIT_SOME_FAILED = 3
"""The work was done, but some utterances could not be processed; they are named in ``failed.csv``."""

EXIT_PROBLEMS = 4
"""The corpus was looked at, and something is wrong with it."""
