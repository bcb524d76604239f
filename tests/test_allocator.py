"""A process that keeps what it frees: pages are not mapped anew in every step, and go back when it is asked to."""

import platform
import subprocess
import sys

import pytest

CODE = """
import resource, sys
import torch
from ddcal.allocator import give_memory_back, keep_freed_memory
if "keep" in sys.argv:
    assert keep_freed_memory() and keep_freed_memory()
torch.set_num_threads(1)

def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))

def step():
    blocks = [torch.ones(2_000_000) for _ in range(20)]  # 8 MB each
    return blocks

for _ in range(5):  # until the heap is as large as it becomes
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
held = resident()
give_memory_back()
print(faults, held - resident())
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="nothing is kept where glibc is not")
def test_pages_are_mapped_once_and_given_back():
    found = {}
    for how in ("keep", "default"):
        done = subprocess.run([sys.executable, "-c", CODE, how], capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        found[how] = [int(number) for number in done.stdout.split()]
    if found["default"][0] < 10_000:
        pytest.skip("glibc kept the blocks without being asked, as it does where they happen to lie well")
    assert found["keep"][0] < found["default"][0] / 4
    assert found["keep"][1] > 100_000, "kB"
