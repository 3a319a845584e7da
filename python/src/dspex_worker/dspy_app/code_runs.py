"""Running code that an LM wrote: in DSPy's interpreter, within limits, and ending with its call."""

from __future__ import annotations

import contextlib
import resource
import subprocess
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any, Final

import dspy
from dspy.primitives.code_interpreter import CodeExecutionError, CodeInterpreterError

from dspex_worker.calls import CallCancelled
from dspex_worker.dspy_app.call_limits import CallLimits
from dspex_worker.sandbox import Setup, find

MOST_AT_ONCE: Final = 4  # processes of one worker; others wait
MOST_OUTPUT: Final = 1 << 20  # characters that one piece of code may answer
START: Final = 60.0  # seconds
_RUNS: Final = 16  # of one process, for its time on processors: should nobody be left to end it
_OWN_MEMORY: Final = 1 << 30  # what Deno and Pyodide themselves reserve: 720 MiB, of which they use 210


class CodeRuns:
    """What all code of a worker's is run with. Raises SandboxMissing where there is nothing to run it in."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.seconds: float = given.get("code_timeout_ms", 30_000) / 1000
        self.memory: int = given.get("code_memory", 512 << 20)
        self._setup: Setup = find()
        self._places = threading.Condition()  # guards the next; waited on for a place, and for a call's end
        # Weakly: CallCancelled is raised anywhere, and what it left behind holds no place.
        self._running: weakref.WeakSet[Interpreter] = weakref.WeakSet()

    def command(self) -> list[str]:
        return self._setup.command(self.memory)

    def take(self, place: Interpreter, stopped: Callable[[], bool]) -> None:
        """Wait for a place. Raises CallCancelled."""
        with self._places:
            self._places.wait_for(lambda: stopped() or len(self._running) < MOST_AT_ONCE)
            if stopped():
                raise CallCancelled
            self._running.add(place)

    def give_back(self, place: Interpreter) -> None:
        with self._places:
            self._running.discard(place)
            self._places.notify_all()

    def look(self) -> None:
        """Let those that wait see whether their call has ended."""
        with self._places:
            self._places.notify_all()


class Interpreter:
    """DSPy's ``CodeInterpreter`` for one use of a program, on the thread that it runs on.

    A process that the code ended, or that was ended of it, is followed by a new one, since the LM is asked again.
    """

    def __init__(self, runs: CodeRuns, limits: CallLimits) -> None:
        self.tools: dict[str, Callable[..., Any]] = {}
        self.output_fields: list[dict[str, Any]] | None = None
        self._runs = runs
        self._limits = limits
        self._guard = threading.Lock()  # guards the three below
        self._python: dspy.PythonInterpreter | None = None
        self._why = ""  # why its process was killed
        self._stopped = False
        limits.on_stop(self._stop)

    execution_instructions = (
        "Python's standard library is there, other packages are not. There are no files, network or processes. "
        "What one execution defines is there in the next, unless one of them ran out of time or memory."
    )

    def start(self) -> None:
        """Start a process, where none is running. Raises CodeInterpreterError where it does not answer."""
        if self._python is not None:
            return
        self._runs.take(self, lambda: self._stopped)
        python = dspy.PythonInterpreter(deno_command=self._runs.command(), tools=self.tools)
        python.output_fields = self.output_fields
        with self._guard:
            self._python, self._why = python, ""
        try:
            with self._at_most(START, "did not start in time"):
                python.start()
            process: subprocess.Popen[str] = python.deno_process
            cpu = int(2 * (START + _RUNS * self._runs.seconds))
            resource.prlimit(process.pid, resource.RLIMIT_CPU, (cpu, cpu))
            resource.prlimit(process.pid, resource.RLIMIT_CORE, (0, 0))
            # What its own limits do not count, such as the buffers of JavaScript.
            most = self._runs.memory + _OWN_MEMORY
            resource.prlimit(process.pid, resource.RLIMIT_DATA, (most, most))
            assert process.stdout is not None
            process.stdout = _Bounded(process.stdout, self._kill)  # type: ignore[assignment]
        except CodeInterpreterError as error:
            self._discard()
            self._check_stopped()
            raise CodeInterpreterError(f"the sandbox {self._why or 'did not start'}: {error}") from error
        except BaseException:
            self._discard()
            raise

    def execute(self, code: str, variables: dict[str, Any] | None = None) -> Any:
        """Run code. Raises CodeExecutionError for what it did, and CallCancelled."""
        self.start()
        self._check_stopped()
        assert self._python is not None
        seconds = self._runs.seconds
        try:
            with self._at_most(seconds, f"ran for longer than {seconds:g} seconds"):
                return self._python.execute(code, variables)
        except (CodeExecutionError, SyntaxError):
            raise  # the process goes on
        except CodeInterpreterError as error:
            self._discard()
            self._check_stopped()
            why = self._why or "ended the interpreter, or left it without an answer: it may have used too much memory"
            raise CodeExecutionError(f"the code {why}. What it defined is lost.") from error
        except BaseException:
            self._discard()
            raise

    def shutdown(self) -> None:
        """End the process: nothing that it holds is needed."""
        self._discard()
        self._limits.off_stop(self._stop)

    @contextlib.contextmanager
    def _at_most(self, seconds: float, why: str) -> Iterator[None]:
        timer = threading.Timer(seconds, self._kill, [why])
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()

    def _check_stopped(self) -> None:
        if self._stopped:
            raise CallCancelled

    def _stop(self) -> None:
        """The call has ended. On the loop's thread."""
        self._stopped = True
        self._kill("was stopped with its call")
        self._runs.look()

    def _kill(self, why: str) -> None:
        with self._guard:
            process = self._python.deno_process if self._python is not None else None
            if process is not None and process.poll() is None:
                self._why = self._why or why
                process.kill()

    def _discard(self) -> None:
        with self._guard:
            python, self._python = self._python, None
        if python is None:
            return
        process: subprocess.Popen[str] | None = python.deno_process
        try:
            if process is not None:
                process.kill()
                process.wait()
                for pipe in (process.stdin, process.stdout, process.stderr):
                    if pipe is not None:
                        with contextlib.suppress(OSError):  # what was not written yet
                            pipe.close()
        finally:
            self._runs.give_back(self)


class _Bounded:
    """The lines that a process writes, as far as they are no longer than they may be."""

    def __init__(self, lines: IO[str], kill: Callable[[str], None]) -> None:
        self._lines = lines
        self._kill = kill
        self.close = lines.close

    def readline(self) -> str:
        line = self._lines.readline(MOST_OUTPUT + 1)
        if len(line) <= MOST_OUTPUT:
            return line
        self._kill(f"answered more than {MOST_OUTPUT} characters")
        return ""
