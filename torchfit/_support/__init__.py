"""The ground floor: batches, nested structures, names and error texts. Imports torch, numpy and the standard library."""
