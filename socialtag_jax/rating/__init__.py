"""The rating study: people mark, without knowing who named them, which tags fit a photo."""
