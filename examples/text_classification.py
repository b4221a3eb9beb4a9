"""A transformers classifier, trained on its own loss with a loader that yields one dictionary per batch.

Run `python examples/text_classification.py` (requires transformers). It takes seconds on a CPU.
"""

import torch
from torch.utils.data import DataLoader
from transformers import BertConfig, BertForSequenceClassification

import torchfit
from torchfit import optimizers

WORDS, LENGTH = 24, 12


def make_data(samples=256):
    """Return sentences of word ids as a list of dictionaries; the label is 1 if most ids are below 14."""
    ids = torch.randint(4, WORDS, (samples, LENGTH))
    labels = ((ids < 14).sum(1) > (ids >= 14).sum(1)).long()
    return [
        {"input_ids": row, "attention_mask": torch.ones_like(row), "labels": label} for row, label in zip(ids, labels)
    ]


def make_model():
    """Return the compiled model. The labels are inputs for the module's loss, and targets for the metric."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    config = BertConfig(
        vocab_size=WORDS, max_position_embeddings=LENGTH, num_labels=2, hidden_dropout_prob=0.0, **sizes
    )
    model = torchfit.Model(BertForSequenceClassification(config), label_names=["labels"], device="cpu")
    model.compile(optimizers.AdamW(3e-3), metrics=["accuracy"])
    return model


def main():
    """Train, and print the accuracy on held-out sentences."""
    torch.manual_seed(0)
    data, model = make_data(), make_model()
    model.fit(DataLoader(data[:192], batch_size=16, shuffle=True), epochs=10, verbose=2)
    results = model.evaluate(DataLoader(data[192:], batch_size=16), verbose=0, return_dict=True)
    print(f"Accuracy on held-out sentences: {results['logits_accuracy']:.3f}")
    return results


if __name__ == "__main__":
    main()
