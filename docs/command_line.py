"""The parser that the reference of commands is made from."""

import argparse

from socialtag_jax import cli


def parser() -> argparse.ArgumentParser:
    """That of `socialtag`, as the command itself builds it."""
    return cli._parser()[0]
