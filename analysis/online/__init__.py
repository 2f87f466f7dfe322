"""The online analysis: a process that works while frames arrive."""
