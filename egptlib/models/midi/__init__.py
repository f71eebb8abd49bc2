"""The midi pair: a language model that nobody here trained, SmolLM2, taught to see by a projector and LoRA."""
