"""Networks that turn an aligned crop into an embedding."""
