"""The recorder process and the run file that it writes; repair of files."""
