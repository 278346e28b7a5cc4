"""The program `lightning-audio`: one verb, one short file. What a user got wrong is one line and exit code 2."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback

from experiments.quiet import quieten

# Verb -> what it does. Each is a module of this folder with `main(arguments)`; imported only when asked for,
# so that `--help` does not wait for torch.
VERBS = {
    "quickstart": "the whole road on an embedded corpus: shards, codec, language model, generation, scores, page",
    "shard": "cut a folder, a captions table or a manifest of audio into tar shards",
    "check": "verify a dataset of shards",
    "report": "show what is in a dataset of shards, as a page with plots",
    "encode": "turn shards of audio into shards of codes",
    "train": "train an experiment (Hydra overrides)",
    "generate": "write audio for texts",
    "evaluate": "score a model, or a folder of audio, by a protocol; write its card and page",
    "compare": "put cards side by side, or make a blind listening test of two",
    "replication": "look for copies: the nearest training clip of each generation",
    "weights": "list or fetch the published weights that metrics need",
    "export": "write a model as one folder that loads anywhere",
    "join": "write one decoder out of separately trained bands (multi-band diffusion)",
}


def _usage() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {about}" for verb, about in VERBS.items()]
    return "\n".join(
        [
            "usage: lightning-audio VERB ...",
            "",
            *lines,
            "",
            "lightning-audio VERB --help   shows what the verb takes, with an example.",
            "LIGHTNING_AUDIO_TRACEBACK=1   shows where an error came from.",
        ]
    )


def _root_cause(error: BaseException) -> BaseException:
    """The error that a user can act on: Hydra wraps what a constructor raised in its own exception."""
    while type(error).__module__.startswith("hydra") and error.__cause__ is not None:
        error = error.__cause__
    return error


def _is_users_to_mend(error: BaseException) -> bool:
    """Wrong values, missing files, a full disk; anything else is a bug of ours and keeps its traceback."""
    module = type(error).__module__.split(".")[0]
    return isinstance(error, (ValueError, FloatingPointError, OSError)) or module in ("hydra", "omegaconf")


def _interrupt(number: int, frame: object) -> None:
    """A polite kill is an interruption: what a verb half wrote is cleaned up on the way out."""
    raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> int:
    """Run one verb and give back its exit code: 0 done, 2 wrong input, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0 if arguments else 2
    verb, *rest = arguments
    if verb not in VERBS:
        import difflib

        nearest = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"; did you mean {nearest[0]}?" if nearest else f"; the verbs are {', '.join(VERBS)}"
        print(f"lightning-audio: error: unknown verb {verb!r}{hint}", file=sys.stderr)
        return 2
    # Threads that wait by spinning make a step ten times slower where something else wants the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    signal.signal(signal.SIGTERM, _interrupt)
    quieten()
    try:
        importlib.import_module(f"experiments.{verb}").main(rest)
        return 0
    except KeyboardInterrupt:
        print(f"lightning-audio {verb}: interrupted; run the same command to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        cause = _root_cause(error)
        if os.environ.get("LIGHTNING_AUDIO_TRACEBACK") or not _is_users_to_mend(cause):
            traceback.print_exc()
            return 1
        message = " ".join(str(cause).split())
        print(f"lightning-audio {verb}: error: {message}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
