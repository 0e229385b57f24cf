"""One of two processes, of which the first fails while the other waits for it."""

import os

from absl import flags

from launch.command import command, run


def main() -> None:
    with command():
        import jax

        from launch.processes import start_processes
        from sd_jax.training.together import sync

        start_processes(True)
        if jax.process_index() == 0:
            raise {"value": ValueError, "type": TypeError}[os.environ["FAILS_BY"]](
                "this process fails alone"
            )
        sync("never")


if __name__ == "__main__":
    flags.FLAGS.mark_as_parsed()
    run(main)
