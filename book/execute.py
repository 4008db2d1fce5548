"""Run the chapters whose result is not there yet, and hand all results to Jupyter Book, which runs nothing itself.

`make book` calls it before the page is built. Several chapters run at once, each on one thread, without any time
limit. A finished chapter is stored under one hash of all that it depends on: its text, every file of the library, the
versions of what computes and draws. So an interrupted or failed build goes on where it was, and a changed library never
serves an old result.
"""

import json
import os
import platform
import re
import shutil
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import psutil
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from myst_nb.core.read import is_myst_markdown_notebook, read_myst_markdown_notebook
from nbclient import NotebookClient

BOOK = Path(__file__).parent
ROOT = BOOK.parent
PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "matplotlib", "k3d")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
AT_ONCE = 4  # the longest chapter takes a quarter of the time of all: more would cost memory and gain nothing
KEPT = 3  # results of a chapter, so that switching between two versions runs nothing again


class Chapter(NamedTuple):
    """A chapter's file, its text, and the notebook that holds its result as soon as it has run."""

    path: Path
    text: str
    result: Path


class ChapterError(Exception):
    """A chapter that could not be run to its end; the message says where and why."""


def usable_cores() -> int:
    """How many cores this process may use, which under `taskset` or in a container is fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fingerprint(library: Path) -> str:
    """A hash of what all chapters depend on: every file of the library, and the versions of Python and packages."""
    lines = [f"python {platform.python_version()}", *(f"{name} {version(name)}" for name in PACKAGES)]
    for path in sorted(library.rglob("*")):
        name = path.relative_to(library)
        if path.is_file() and not any(part.startswith((".", "__pycache__")) for part in name.parts):
            lines.append(f"{name.as_posix()} {sha256(path.read_bytes()).hexdigest()}")
    return sha256("\n".join(lines).encode()).hexdigest()


def chapters(book: Path, library: Path, results: Path) -> list[Chapter]:
    """The pages of the book that have code, as they are now."""
    state, found = fingerprint(library), []
    for path in sorted(book.glob("*.md")):
        text = path.read_text("utf-8")
        if is_myst_markdown_notebook(text):
            digest = sha256((state + text).encode()).hexdigest()
            found.append(Chapter(path, text, results / f"{path.stem}.{digest[:12]}.ipynb"))
    return found


def earlier(chapter: Chapter) -> list[Path]:
    """The stored results of all versions of a chapter, the newest first."""
    paths = chapter.result.parent.glob(f"{chapter.path.stem}.*.ipynb")
    return sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True)


def expected_seconds(chapter: Chapter) -> float:
    """How long the chapter computed last time; one that never ran may be long and goes first, by its size."""
    known = next(iter(earlier(chapter)), None)
    return json.loads(known.read_text("utf-8"))["metadata"]["seconds"] if known else 1e6 + len(chapter.text)


def run(chapter: Chapter, library: Path, kernels: set[AsyncKernelManager]) -> str:
    """Run a chapter on one thread and store it, whole or not at all; says how long it took. Raises ChapterError."""
    notebook = read_myst_markdown_notebook(chapter.text, add_source_map=True, path=chapter.path)
    path = os.pathsep.join(filter(None, [str(library.parent), os.environ.get("PYTHONPATH")]))
    # the Python that is running, whatever other kernels of the same name are installed
    kernel = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    line, seconds, longest = 0, 0.0, (0.0, 0)

    def begin_cell(cell: Any, cell_index: int) -> None:
        nonlocal line
        line = notebook.metadata.source_map[cell_index]

    def end_cell(cell: Any, cell_index: int, execute_reply: Any) -> None:
        nonlocal seconds, longest
        times = psutil.Process(getattr(kernel.provisioner, "pid", None)).cpu_times()
        longest = max(longest, (times.user + times.system - seconds, line))
        seconds = times.user + times.system

    client = NotebookClient(
        notebook,
        kernel,
        timeout=None,
        startup_timeout=24 * 3600,  # by default a minute; a kernel that dies is noticed anyway
        iopub_timeout=3600,  # by default 4 s, after which a busy machine would lose what a cell has shown
        raise_on_iopub_timeout=True,
        record_timing=False,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(chapter.path.parent)}},
        on_cell_execute=begin_cell,
        on_cell_executed=end_cell,
    )
    began = time.monotonic()
    kernels.add(kernel)
    try:
        client.execute(cleanup_kc=True, env=os.environ | dict.fromkeys(THREADS, "1") | {"PYTHONPATH": path})
    except Exception as error:
        reason = re.sub(r"\x1b\[[0-9;]*m", "", str(error) or repr(error))
        raise ChapterError(f"{chapter.path.name}, the cell at line {line}: {reason}") from error
    finally:
        kernels.discard(kernel)
    if chapter not in chapters(chapter.path.parent, library, chapter.result.parent):
        raise ChapterError(f"{chapter.path.name}: it or the library changed while it ran; run it again")

    notebook.metadata["seconds"] = seconds
    part = chapter.result.with_suffix(".part")
    with part.open("w", encoding="utf-8") as file:
        nbformat.write(notebook, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(chapter.result)
    for old in earlier(chapter)[KEPT:]:
        old.unlink()
    took = time.monotonic() - began
    return f"{took:.0f} s: {seconds:.0f} s of one core, {longest[0]:.0f} s of them in the cell at line {longest[1]}"


def run_all(pending: list[Chapter], library: Path, processes: int) -> list[str]:
    """Run chapters side by side, the longest first, and show how it goes; the names of those that failed."""
    kernels: set[AsyncKernelManager] = set()
    remaining, failed, stopping = [chapter.path.stem for chapter in pending], [], threading.Event()

    def work(chapter: Chapter) -> None:
        name = chapter.path.stem
        print(f"{name} begins\n", end="", flush=True)  # in one piece: others print, too
        try:
            said = f"{name} took {run(chapter, library, kernels)}"
        except Exception as error:  # whatever it is, the other chapters go on
            if stopping.is_set():
                return
            failed.append(name)
            said = f"\n{error or repr(error)}\n\n{name} FAILED"
        remaining.remove(name)
        others = ", ".join(other.partition("_")[0] for other in remaining)
        print(f"{said}; {len(remaining)} to go{': ' if others else ''}{others}\n", end="", flush=True)

    pool = ThreadPoolExecutor(processes)
    futures = [pool.submit(work, chapter) for chapter in sorted(pending, key=expected_seconds, reverse=True)]
    try:
        wait(futures)
    except KeyboardInterrupt:
        stopping.set()
        pool.shutdown(wait=False, cancel_futures=True)
        while any(future.running() for future in futures):
            for kernel in list(kernels):
                if kernel.has_kernel and (process := getattr(kernel.provisioner, "process", None)):
                    process.kill()
            time.sleep(0.1)
        sys.exit("Interrupted. Finished chapters are kept: the same command goes on from here.")
    return failed


def hand_over(finished: list[Chapter], cache: Path) -> None:
    """Fill a new jupyter-cache, which Jupyter Book reads, with the chapters' results and how long they computed."""
    shutil.rmtree(cache, ignore_errors=True)
    target = get_cache(str(cache))
    for chapter in finished:
        notebook = nbformat.read(chapter.result, as_version=4)
        bundle = CacheBundleIn(notebook, str(chapter.path), data={"execution_seconds": notebook.metadata["seconds"]})
        target.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)


def execute(book: Path, library: Path, results: Path, cache: Path) -> list[str]:
    """Run what is missing in `results`; if nothing failed, fill `cache`. The names of the chapters that failed."""
    results.mkdir(parents=True, exist_ok=True)
    found = chapters(book, library, results)
    pending = [chapter for chapter in found if not chapter.result.exists()]
    processes = max(1, min(usable_cores(), len(pending), AT_ONCE))
    plan = f"{len(pending)} to run, {processes} at once" if pending else "all are finished"
    print(f"{len(found)} chapters: {plan}", flush=True)
    failed = run_all(pending, library, processes)
    if not failed:
        hand_over(found, cache)
    return failed


def stop_with_parent() -> None:
    """End this process when the one that started it, `make`, is gone. Kernels do the same, so none is left behind."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    stop_with_parent()
    if names := execute(BOOK, ROOT / "dnet_lib", ROOT / "build" / "chapters", ROOT / "_build" / ".jupyter_cache"):
        sys.exit(f"failed: {', '.join(names)}. The others are kept; once it is mended, the same command goes on.")
