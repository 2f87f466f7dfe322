"""The run file (HDF5, NeXus): its layout, and how it is read and changed safely."""
