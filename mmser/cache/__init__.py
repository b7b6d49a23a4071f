"""The HDF5 cache: streams of immutable shards. The only importer of h5py."""
