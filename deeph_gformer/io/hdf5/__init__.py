"""HDF5: files of many small matrices read and written as tables."""
