"""Turns the data that a user passes into batches on the device, in three stages.

```
x, y, sample_weight
    │  get_data_adapter               adapters/dispatch.py: one adapter per kind of data
    ▼
DataAdapter                           splits, weights by class, knows which arguments its kind of data supports
    │  .batches(batch_size, shuffle)
    ▼
BatchSource                           the batches of one pass over the data, as tensors on the device
    │  EpochIterator(batches, steps_per_epoch)
    ▼
EpochIterator                         cuts them into epochs, and warns when the data end too early
    │
    ▼
trainer
```

`pipelines.py` composes the stages for `fit`, `evaluate` and `predict`. Arrays become tensors once, in their adapter;
everything that yields batches is converted batch by batch (`batch_converter.py`). Both use `convert.py`, to the device
and dtypes of a `BatchSpec`.
"""
