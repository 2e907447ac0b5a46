"""What a run is made with: versions, commit, machine."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import sb3_rlx2

PACKAGES = ("torch", "stable-baselines3", "numpy", "numba", "gymnasium", "mujoco")


def provenance() -> dict[str, Any]:
    """Versions, commit, machine, process and time."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "version": sb3_rlx2.__version__,
        "commit": commit(),
        "packages": {"python": platform.python_version(), **_versions()},
        "host": socket.gethostname(),
        "machine": machine(),
        "threads": 1,
        "pid": os.getpid(),
    }


def commit() -> str:
    """The commit of the checkout that the package is in, with ``+`` if files were changed; empty if it is in none."""
    folder = Path(sb3_rlx2.__file__).parents[1]
    if not (folder / ".git").exists():
        return ""
    try:
        head = _git(folder, "rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def machine() -> str:
    """Processor, number of its cores and operating system."""
    return f"{_processor()}, {os.cpu_count()} cores, {platform.system()}"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
