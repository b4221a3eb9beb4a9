"""The ground floor: batches, nested structures, names, error texts. Imports torch, numpy and the standard library."""
