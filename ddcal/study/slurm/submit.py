"""Writing the job file of a study, from the one that comes with ddcal, and submitting it."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ddcal.config import StudyConfig
from ddcal.config.shipped import shipped_folder
from ddcal.errors import BadInput, ResourceError

OPTIONS_END = "#SBATCH --output=%x-%j.out"


def job_file(
    study: str,
    name: str,
    output: Path,
    options: Mapping[str, str | int | None],
    *,
    more: Sequence[str] = (),
    python: str = sys.executable,
) -> str:
    """Return the text of a study's job file.

    Args:
        study: The study's file, or the name of a shipped one.
        name: The study's name.
        output: The output root.
        options: Options of `sbatch` without their dashes; None leaves the file's own.
        more: Further options, for example ``--account=lab``.
        python: The Python that ddcal is installed for.

    Raises:
        BadInput: if an option has a line break, or one of ``more`` is none.
    """
    text = (shipped_folder() / "cluster" / "slurm.sbatch").read_text(encoding="utf-8")
    values = {"job-name": f"ddcal-{name}", **options}
    for option, value in values.items():
        if value is not None:
            text = _set(text, rf"(?m)^#SBATCH --{option}=.*$", f"#SBATCH --{option}={_one_line(option, str(value))}")
    for one in more:
        if not re.match(r"-{1,2}[A-Za-z]", one):
            raise BadInput(f"--sbatch {one!r} is no option of sbatch: for example --sbatch=--account=lab")
        text = text.replace(OPTIONS_END, f"{OPTIONS_END}\n#SBATCH {_one_line('sbatch', one)}")
    for variable, value in {"PYTHON": python, "STUDY": study, "OUTPUT": str(output)}.items():
        text = _set(text, rf"(?m)^{variable}=.*$", f"{variable}={shlex.quote(value)}")
    return text


def left_idle(study: StudyConfig, nodes: int, cpus: int, gpus: int) -> str | None:
    """Return what a study would leave idle of the nodes that are asked for, and what to set; None if that is nothing.

    Args:
        study: The study.
        nodes: How many nodes.
        cpus: How many CPUs each has.
        gpus: How many GPUs each has.

    Raises:
        BadInput: if its trials need a GPU and none is asked for.
    """
    resources, at_once = study.resources, study.search.concurrency
    if resources.gpu and not gpus:
        raise BadInput(f"--gpus 0, but a trial asks for resources.gpu: {resources.gpu}; give --gpus N, N on each node")
    if gpus and not resources.gpu:
        return f"--gpus {gpus}, but trials ask for none: set resources.gpu to 1, to a share such as 0.25, or to auto"
    if gpus:
        share = 1.0 if resources.gpu == "auto" else resources.gpu
        there, kind = nodes * gpus, "GPUs"
    else:
        share, there, kind = max(resources.cpu, float(resources.threads)), nodes * cpus, "CPUs"
    room = int(there / share)
    if at_once >= min(room, study.search.trials):
        return None
    trials = f"{at_once} trial{'s' * (at_once != 1)} at a time leave{'s' * (at_once == 1)}"
    return f"search.concurrency: {trials} some of {there} {kind} idle; {room} would fit"


def submit(file: Path) -> str:
    """Submit a job file and return what `sbatch` says.

    Raises:
        ResourceError: if there is no SLURM here, or it refuses the job.
    """
    if shutil.which("sbatch") is None:
        raise ResourceError(f"sbatch is not on this machine: run `sbatch {file}` where jobs are submitted")
    done = subprocess.run(["sbatch", str(file)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ResourceError(f"sbatch refuses {file}: {(done.stderr or done.stdout).strip()}")
    return done.stdout.strip()


def _set(text: str, pattern: str, line: str) -> str:
    found, count = re.subn(pattern, lambda _: line, text)
    assert count == 1, pattern
    return found


def _one_line(option: str, value: str) -> str:
    if not value.isprintable():
        raise BadInput(f"--{option} {value!r}: a line break or another control character has no place in a job file")
    return value
