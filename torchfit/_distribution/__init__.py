"""Several processes that train one model: how they are connected, and what they exchange."""
