"""The mini pair: the real classes at a size that trains and runs on two CPU cores; its weights and its training."""
