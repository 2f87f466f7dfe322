"""HDF5 files that survive a kill: writer lock, redo log, superblock and chunk index."""
