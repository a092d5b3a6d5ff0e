from __future__ import annotations

import os
import platform
from importlib import metadata

import pytest

from lissom.errors import UsageError
from lissom.measure.environment import available_cores, cpu_model, environment, isa, versions
from lissom.measure.records import Environment

X86 = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
flags\t\t: fpu sse2 avx avx2 avx512f avx512vnni_not_this avx512_vnni amx_int8 amx_tile

processor\t: 1
model name\t: another
"""

ARM = """processor\t: 0
BogoMIPS\t: 50.00
Features\t: fp asimd evtstrm aes asimdhp asimddp sve i8mm bf16
CPU implementer\t: 0x41

"""


def test_x86_model_and_instruction_sets():
    assert cpu_model(X86) == "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz"
    assert isa(X86) == ("avx2", "avx512f", "avx512_vnni", "amx_tile", "amx_int8")


def test_arm_has_instruction_sets_but_no_model():
    assert cpu_model(ARM) is None
    assert isa(ARM) == ("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve")


def test_a_raspberry_pi_names_its_board():
    assert cpu_model(ARM + "Model\t\t: Raspberry Pi 5 Model B Rev 1.0\n") == "Raspberry Pi 5 Model B Rev 1.0"


def test_without_cpuinfo_there_is_nothing_to_tell():
    assert cpu_model("") is None
    assert isa("") == ()


def test_this_machine():
    found = environment(threads=2)
    assert found.threads == 2
    assert found.cpu
    assert 1 <= found.cores <= (os.cpu_count() or 1)
    assert found.memory_bytes > 2**20
    assert platform.python_version() in found.python
    assert found.versions["torch"] == metadata.version("torch")
    assert Environment.model_validate_json(found.model_dump_json()) == found


def test_no_host_name_and_no_path():
    text = environment(threads=1).system
    assert platform.node() not in text.split()
    assert "/" not in text
    assert text.startswith(platform.system())


def test_cores_are_those_this_process_may_use():
    if hasattr(os, "sched_getaffinity"):
        assert available_cores() == len(os.sched_getaffinity(0))
    else:
        assert available_cores() == os.cpu_count()


def test_packages_that_are_not_installed_are_left_out():
    found = versions(["numpy", "no-such-package-as-this"])
    assert found == {"numpy": metadata.version("numpy")}


def test_threads_must_be_positive():
    with pytest.raises(UsageError) as error:
        environment(threads=0)
    assert str(error.value) == "threads must be at least 1, got 0."
