"""Writing the job file of a study, from the one that comes with ddcal, and submitting it."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path

from ddcal.config import StudyConfig
from ddcal.config.shipped import shipped_folder
from ddcal.errors import BadInput, ResourceError
from ddcal.study.plan.side_by_side import cpu_slots, gpu_slots

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
        BadInput: if no node has the CPUs or GPUs that one of its trials asks for.
    """
    resources, at_once = study.resources, study.search.concurrency
    on_cpus, on_gpus = cpu_slots(study, cpus), gpu_slots(study, gpus)
    if on_gpus == 0:
        raise BadInput(
            f"--gpus {gpus}, but a trial asks for resources.gpu: {resources.gpu}; give --gpus N, N on each node"
        )
    if on_cpus == 0:
        raise BadInput(
            f"--cpus {cpus}, but a trial asks for {resources.cpus_key}: {resources.cpus:g}; "
            f"give --cpus {ceil(resources.cpus)} or more"
        )
    if gpus and on_gpus is None:
        return f"--gpus {gpus}, but trials ask for none: set resources.gpu to 1, to a share such as 0.25, or to auto"
    each = min(fit for fit in (on_cpus, on_gpus) if fit is not None)  # a trial lies on one node
    room, trials = nodes * each, study.search.trials
    most = min(room if on_gpus is None else nodes * on_gpus, trials)  # with as many CPUs as it takes
    if min(at_once, room) >= most:
        return None
    there = _counted(nodes * gpus, "GPU") if gpus else _counted(nodes * cpus, "CPU")
    enough = f"--cpus {ceil(ceil(most / nodes) * resources.cpus)}"
    if at_once < room:
        more = f", and {most} with {enough}" if most > room else ""
        leaves = f"{_counted(at_once, 'trial')} at a time leave{'s' * (at_once == 1)} some of {there} idle"
        return f"search.concurrency: {leaves}; {room if room < trials else f'all {trials}'} would fit{more}"
    cure = enough if at_once >= most else f"{enough} and search.concurrency: {most}"
    leaves = f"{_counted(each, 'trial')} on each node leave{'s' * (each == 1)} some of {there} idle"
    return f"--cpus {cpus}: a trial takes {resources.cpus:g} of them, and {leaves}; {cure} would use them"


def submit(file: Path) -> str:
    """Submit a job file and return what `sbatch` says.

    Raises:
        ResourceError: if there is no SLURM here, or it refuses the job.
    """
    if shutil.which("sbatch") is None:
        command = f"sbatch {shlex.quote(str(file))}"
        raise ResourceError(f"sbatch is not on this machine: run `{command}` where jobs are submitted")
    done = subprocess.run(["sbatch", str(file)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ResourceError(f"sbatch refuses {file}: {(done.stderr or done.stdout).strip()}")
    return done.stdout.strip()


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _set(text: str, pattern: str, line: str) -> str:
    found, count = re.subn(pattern, lambda _: line, text)
    assert count == 1, pattern
    return found


def _one_line(option: str, value: str) -> str:
    if not value.isprintable():
        raise BadInput(f"--{option} {value!r}: a line break or another control character has no place in a job file")
    return value
