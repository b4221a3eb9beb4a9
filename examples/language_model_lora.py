"""Fine-tune a transformers language model with low-rank adapters (LoRA) from peft.

Run `python examples/language_model_lora.py` (requires transformers and peft). It takes seconds on a CPU.
"""

import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

import torchfit
from torchfit import losses, optimizers

WORDS, LENGTH = 16, 12


def make_data(samples=128):
    """Return input and target ids (samples, length): each id is the previous one plus 3, modulo the vocabulary size."""
    ids = (torch.randint(WORDS, (samples, 1)) + 3 * torch.arange(LENGTH + 1)) % WORDS
    return ids[:, :-1], ids[:, 1:]


def make_model():
    """Return the compiled model; only its adapters are trained."""
    sizes = {"n_positions": LENGTH, "n_embd": 32, "n_layer": 1, "n_head": 2, "attn_pdrop": 0.0, "resid_pdrop": 0.0}
    base = GPT2LMHeadModel(GPT2Config(vocab_size=WORDS, embd_pdrop=0.0, bos_token_id=0, eos_token_id=0, **sizes))
    layers = LoraConfig(r=8, lora_alpha=32, target_modules=["c_attn", "c_fc", "c_proj", "wte"], fan_in_fan_out=True)
    model = torchfit.Model(get_peft_model(base, layers), device="cpu")
    loss = losses.SparseCategoricalCrossentropy(from_logits=True)  # Applies to the output `logits`.
    model.compile(optimizers.Adam(0.02), loss, metrics=["accuracy"])
    return model


def main():
    """Train, and print the accuracy of the next word."""
    torch.manual_seed(0)
    inputs, targets = make_data()
    model = make_model()
    before = model.evaluate({"input_ids": inputs}, targets, verbose=0, return_dict=True)
    model.fit({"input_ids": inputs}, targets, batch_size=16, epochs=15, verbose=2)
    after = model.evaluate({"input_ids": inputs}, targets, verbose=0, return_dict=True)
    trained = sum(parameter.numel() for parameter in model.trainable_weights)
    accuracies = f"{before['accuracy']:.3f} before, {after['accuracy']:.3f} after"
    print(f"Trained {trained} of {model.count_params()} parameters; accuracy {accuracies}")
    return before, after


if __name__ == "__main__":
    main()
