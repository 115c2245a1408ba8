"""Everything that reads a search directory, as a program that watches what it does: for directories from somebody else.

It reads lines of JSON: the names of entry points, the search directory, the folder in which they may write, and the one
that they must not touch. It calls them in a process of its own, and prints a line of JSON: for each the outcome, and
what was done that must not be done. Heavy libraries are imported once.
"""

from __future__ import annotations

import gc
import json
import math
import os
import pickle
import re
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import transformers  # noqa: F401  a student may name a class of it
from toy_search import make_config, make_search
from typer.testing import CliRunner

from autodistill import SearchResult
from autodistill.cli import doctor, export, status  # noqa: F401  so that commands import nothing
from autodistill.cli.app import app
from autodistill.errors import AutoDistillationError
from autodistill.export.huggingface_folder import export_folder

PATIENCE = 60.0  # seconds: the calls of a line take about one; reading a pipe takes for ever

COMMANDS = {
    "status": ("status", "{path}"),
    "trials": ("trials", "{path}"),
    "trials --json": ("trials", "{path}", "--json"),
    "show": ("show", "{path}", "1"),
    "export": ("export", "{path}", "{work}/exported"),
    "doctor": ("doctor", "{path}"),
    "doctor --repair": ("doctor", "{path}", "--repair"),
}

MISBEHAVE = "misbehave"
"""Does what no entry point may do, to show that it is noticed."""

ENTRY_POINTS = ("SearchResult.load", "best_model", "load_model", "export_folder", "search_loop", *COMMANDS)

RUNS = {
    "ctypes.dlopen",
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.spawn",
    "os.system",
    "pickle.find_class",
    "pty.spawn",
    "socket.connect",
    "subprocess.Popen",
}
CHANGES = {
    "os.chmod",
    "os.link",
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.symlink",
    "os.truncate",
    "os.utime",
    "shutil.copyfile",
    "shutil.move",
    "shutil.rmtree",
}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Watch:
    """An audit hook that records what a directory must not cause.

    Args:
        work: where files may be written.
        outside: which must not be touched.
    """

    def __init__(self, work: str, outside: str) -> None:
        self.work = os.path.realpath(work)
        self.outside = os.path.realpath(outside)
        self.violations: list[str] = []  # of the current call
        self._busy = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._busy:
            return
        self._busy = True
        try:
            if event in RUNS or (event == "import" and str(arguments[0]).startswith("canary")):
                self.violations.append(f"{event} {arguments!r}"[:200])
            elif event == "open":
                self._check(event, arguments[0], writes=bool((arguments[2] or 0) & WRITES))
            elif event in CHANGES:
                for argument in arguments[:2]:
                    self._check(event, argument, writes=True)
        finally:
            self._busy = False

    def _check(self, event: str, path: Any, *, writes: bool) -> None:
        # A relative path belongs to a folder that was opened before.
        if not isinstance(path, str | bytes | os.PathLike) or not os.path.isabs(path):
            return
        real = os.path.realpath(os.fsdecode(path))
        allowed = real == os.devnull or real.startswith(self.work)
        if real.startswith(self.outside) or (writes and not allowed):
            self.violations.append(f"{event} {real}")


def call(entry: str, path: Path, work: Path) -> str:
    """Run an entry point; returns what it returned or raised, in a few words."""
    if entry in COMMANDS:
        return _command([word.format(path=path, work=work) for word in COMMANDS[entry]])
    try:
        if entry == MISBEHAVE:
            _misbehave(path)
        elif entry == "SearchResult.load":
            return f"{len(SearchResult.load(path))} trials"
        if entry == "best_model":
            make_search(path).best_model()
        elif entry == "load_model":
            for trial in SearchResult.load(path).completed:
                make_search(path).load_model(trial)
        elif entry == "export_folder":
            for trial in SearchResult.load(path).completed:
                export_folder(path, trial, work / f"exported_{trial.number}")
        else:
            # Without `promote`, the paused trials are finished from their checkpoints.
            make_search(path, make_config(max_trials=4, metrics=["accuracy"])).search_loop()
    except AutoDistillationError as error:
        return f"refused: {type(error).__name__}: {error}"
    except BaseException:
        return f"crashed: {traceback.format_exc()}"
    return "done"


def _misbehave(path: Path) -> None:
    outside = path.parents[1] / "outside"
    os.system("true")
    (outside / "thesis.txt").read_text(encoding="utf-8")
    (path / "link").symlink_to(outside)
    (path / "link" / "new.txt").touch()
    pickle.loads(pickle.dumps(os.getcwd))


def _command(arguments: list[str]) -> str:
    result = CliRunner().invoke(app, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return f"crashed: {''.join(traceback.format_exception(result.exception))}"
    output = re.sub(r"\rLoading weights: [\w:,<>?.|%/█▏▎▍▌▋▊▉ \[\]]*", "", result.output)  # a bar of the library
    odd = {character for character in output if not (character.isprintable() or character in "\n\t")}
    if odd:
        return f"crashed: it printed {odd!r}"
    return f"{'refused' if result.exit_code == 2 else 'done'}: {result.output}"


def serve(request: dict[str, Any]) -> list[dict[str, Any]]:
    """The outcomes of some calls in a process of their own."""
    answers = Path(request["work"]) / "answers.jsonl"
    answers.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        try:
            _call_all(request, answers)
        finally:
            os._exit(0)
    end, problem = time.monotonic() + PATIENCE, "its process died"
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > end:
            problem, end = "it hangs", math.inf
            os.kill(child, signal.SIGKILL)
        time.sleep(0.005)
    lines = answers.read_text(encoding="utf-8").splitlines() if answers.exists() else []
    found: list[dict[str, Any]] = [json.loads(line) for line in lines]
    missing = {"outcome": f"crashed: {problem}", "violations": []}
    return found if len(found) == len(request["entries"]) else [*found, missing]


def _call_all(request: dict[str, Any], answers: Path) -> None:
    watch = Watch(request["work"], request["outside"])
    sys.addaudithook(watch)
    for entry in request["entries"]:
        watch.violations = []
        outcome = call(entry, Path(request["path"]), Path(request["work"]))
        line = json.dumps({"outcome": outcome, "violations": watch.violations})
        with answers.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


if __name__ == "__main__":
    gc.freeze()  # so that the processes share the memory of what was imported
    for line in sys.stdin:
        print(json.dumps(serve(json.loads(line))), flush=True)
