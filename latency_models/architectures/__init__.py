"""Networks known by their architecture alone: encodings, and the models on them."""
