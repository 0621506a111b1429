"""The command line: one module a command, each thin. Exit code 0 fine, 1 the check failed, 2 bad use."""

import argparse
import os
import sys

from minivitpose import __version__
from minivitpose.cli import bench, convert, demo, evaluate, inspect, predict, record, synthesize, train
from minivitpose.cli.options import UsageError

COMMANDS = (demo, predict, evaluate, inspect, record, convert, bench, synthesize, train)  # in the order of --help


def main(arguments=None):
    """Run a command and return its exit code. Bad input is one line on standard error, never a traceback."""
    from minivitpose.bench import BenchError
    from minivitpose.checkpoint import CheckpointError
    from minivitpose.config import ConfigError
    from minivitpose.files import BusyError
    from minivitpose.pose import BoxError, ImageError, PoseError
    from minivitpose.pose.coco_fields import CocoError
    from minivitpose.recording import RecordingError
    from minivitpose.training import TrainingError
    from minivitpose.training.settings import SettingsError

    of_input = (CheckpointError, ConfigError, ImageError, BoxError, PoseError, CocoError, SettingsError)
    of_input += (RecordingError, BenchError, TrainingError, BusyError)
    options = parser().parse_args(arguments)
    try:
        return options.run(options)
    except (*of_input, UsageError) as error:
        return complain(error)
    except MemoryError as error:
        return complain(f"not enough memory ({error}): try a smaller batch")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `| head` has seen enough
        return 0
    except OSError as error:  # of the output: readers have errors of their own
        return complain(f"{error.filename or 'output'}: {error.strerror or error}")
    except KeyboardInterrupt:
        print("minivitpose: interrupted; files that were finished are whole", file=sys.stderr)
        return 130


def complain(error):
    print(f"minivitpose: error: {error}", file=sys.stderr)
    return 2


def parser():
    top = argparse.ArgumentParser(
        prog="minivitpose",
        description="ViTPose from scratch in NumPy and Numba: run it, look inside, check it against PyTorch.",
        epilog="example: minivitpose demo\nmore:    minivitpose COMMAND --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"minivitpose {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name, run, text, example):
        whole_lines = argparse.RawDescriptionHelpFormatter  # an example broken in two cannot be copied
        examples = "\n".join(f"example: {line}" for line in example.splitlines())
        p = commands.add_parser(name, help=text, description=text, epilog=examples, formatter_class=whole_lines)
        p.set_defaults(run=run)
        return p

    for module in COMMANDS:
        module.add(command)
    return top
