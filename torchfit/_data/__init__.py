"""Every accepted form of data, turned into batches at the edge."""
