"""Compiled programs, kept on disk: what one process has compiled, the next one loads.

Importing this package turns nothing on, and neither does `Tagger.load`: jax's cache belongs to the whole process, so
that whoever runs the process decides. `socialtag train`, `sweep`, `evaluate`, `export` and `predict` call `enable`;
another program can, too, before it computes anything.

Programs are found by their code, their compile options, jaxlib's version and the device; on a CPU the device includes
its instruction set, so that machines may share a home folder. Parameters are arguments of all our programs, not parts
of them: an entry is small, and stays valid when they change.
"""

import tempfile
from collections.abc import Callable

import jax

from socialtag_jax.machine import cache_folder

_FOLDER = "compiled"
_MAX_BYTES = 2**30
"""Beyond it jax drops the programs that were not used for longest."""


def enable(log: Callable[[str], None]) -> None:
    """Keeps this process's compiled programs in the cache folder, all of them, and loads those that are there.

    A cache that the user has set up (`JAX_COMPILATION_CACHE_DIR`), or all caching that he has switched off
    (`JAX_ENABLE_COMPILATION_CACHE=false`), stays as it is. A folder that cannot be written costs time, not the run.

    Args:
      log: takes the one line that says why nothing is kept.
    """
    if (
        jax.config.values["jax_compilation_cache_dir"] is not None
        or not jax.config.values["jax_enable_compilation_cache"]
    ):
        return
    folder = cache_folder() / _FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        log(f"warning: compiled programs are not kept: {folder}: {error.strerror or error}")
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", _MAX_BYTES)
    # By default jax keeps only what took a second to compile, but a start has dozens of small programs.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
