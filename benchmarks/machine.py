"""What a measurement was made on, and with."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from deniable.papers.results import processor

ROOT = Path(__file__).parent.parent
MEASURED = ("src", "benchmarks/*.py")

# Variables that choose the allocator, the threads and the kernels.
_VARIABLES = (
    "CUBLAS_", "CUDA_LAUNCH_BLOCKING", "CUDA_MODULE_LOADING", "GLIBC_TUNABLES", "GOMP_", "KMP_",
    "LD_PRELOAD", "MALLOC_", "MKL_", "NVIDIA_TF32_OVERRIDE", "OMP_", "ONEDNN_", "OPENBLAS_",
    "PYTORCH_", "TCMALLOC_",
)  # fmt: skip
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def header(module: str, device: str) -> dict[str, Any]:
    """What a results file says of the run: command, device, machine, environment.

    Args:
        module: that was run, such as "benchmarks.run".
        device: "cpu" or "cuda".
    """
    return {
        "command": " ".join([f"python -m {module}", *sys.argv[1:]]),
        "device": device,
        "machine": description(device),
        "environment": environment(),
    }


def description(device: str) -> dict[str, str | int]:
    """The machine and the versions, as JSON."""
    found: dict[str, str | int] = {
        "cpu": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else _cores(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "opacus": _version("opacus"),
    }
    if device != "cpu":
        found["gpu"] = torch.cuda.get_device_name()
        found["cuda"] = str(torch.version.cuda)
        found["float32 matmul"] = torch.get_float32_matmul_precision()
        found["tf32 convolutions"] = torch.backends.cudnn.allow_tf32
    return found


def environment() -> dict[str, str]:
    """Variables that change speed, where set, and the C library and its pages: every candidate's.

    An allocator other than the C library's shows in LD_PRELOAD.
    """
    found = {name: value for name, value in os.environ.items() if name.startswith(_VARIABLES)}
    found["C library"] = " ".join(platform.libc_ver()).strip() or "unknown"
    if _HUGE_PAGES.exists():
        modes = _HUGE_PAGES.read_text(encoding="utf-8")
        found["transparent huge pages"] = modes.partition("[")[2].partition("]")[0]
    return dict(sorted(found.items()))


def moment() -> dict[str, Any]:
    """The date in UTC, the code, and how busy the machine is: processes that want to run."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"date": today, "code": code(), "load": round(os.getloadavg()[0], 2)}


def code() -> str:
    """Version and latest commit of what is measured, with "+" where files differ from that."""
    try:
        commit = _git("log", "-1", "--format=%h", "--", *MEASURED)
        return f"{_version('deniable')} {commit}" + "+" * bool(
            _git("status", "--porcelain", "--", *MEASURED)
        )
    except (OSError, subprocess.CalledProcessError):
        return f"{_version('deniable')}+"


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )  # fmt: skip
    return done.stdout.strip()


def _cores() -> int:
    return os.cpu_count() or 1


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"
