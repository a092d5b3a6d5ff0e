from __future__ import annotations

import json

import pytest

from lissom.errors import FailureError
from lissom.measure import footprint
from lissom.measure.footprint import peak_bytes, peak_of, report_peak, reset_peak, resident_bytes, size_bytes

MIB = 2**20

CHILD = """
from lissom.measure.footprint import report_peak, reset_peak, resident_bytes
{imports}
reset_peak()
baseline = resident_bytes()
block = bytearray({bytes})
block[::4096] = b"x" * len(block[::4096])
del block
print("something the runtime prints")
report_peak(baseline)
"""


def child(size: int, imports: str = "") -> list[str]:
    return ["-c", CHILD.format(bytes=size, imports=imports)]


def test_size_is_the_sum_of_the_files(tmp_path):
    first, second = tmp_path / "model.xml", tmp_path / "model.bin"
    first.write_bytes(b"x" * 10)
    second.write_bytes(b"y" * 300)
    assert size_bytes([first, second]) == 310
    assert size_bytes([first, tmp_path / "." / "model.xml"]) == 10


def test_size_of_a_missing_file_is_an_error_without_its_folder(tmp_path):
    with pytest.raises(FailureError) as error:
        size_bytes([tmp_path / "model.onnx"])
    assert str(error.value) == ("The artifact file 'model.onnx' does not exist, so it has no size. Export it again.")


def test_peak_is_what_the_child_needed_above_its_baseline():
    needed = peak_of(child(64 * MIB))
    # The freed block must count, give or take what Linux batches in its counters and the interpreter adds.
    assert 63 * MIB <= needed <= 80 * MIB


def test_what_was_needed_before_the_baseline_does_not_count():
    if not reset_peak():
        pytest.skip("this system does not permit resetting the peak")
    warm = "held = bytearray(96 * 2**20); held[::4096] = b'x' * len(held[::4096]); del held"
    assert peak_of(child(16 * MIB, imports=warm)) <= 40 * MIB


def test_the_parent_memory_does_not_count():
    # On Linux ru_maxrss of a child starts at its parent's: a child that allocates nothing would report this.
    held = bytearray(64 * MIB)
    held[::4096] = b"x" * len(held[::4096])
    assert peak_of(child(4096)) <= 32 * MIB


# Linux batches its resident counters, so a high-water mark can read a few pages below the baseline.
@pytest.mark.parametrize(("baseline", "peak", "needed"), [(4096, 12288, 8192), (8192, 4096, 0)])
def test_the_figure_is_the_peak_above_the_baseline(baseline, peak, needed):
    report = json.dumps({"baseline": baseline, "peak": peak})
    assert peak_of(["-c", f"print({report!r})"]) == needed


def test_a_failing_child_shows_the_end_of_its_errors():
    with pytest.raises(FailureError) as error:
        peak_of(["-c", "import sys; print('noise\\n' * 50, file=sys.stderr); raise SystemExit('no such model')"])
    text = str(error.value)
    assert text.startswith("Peak memory could not be measured: the process ended with exit code 1.\n")
    assert text.endswith("no such model")
    assert text.count("noise") < footprint.STDERR_LINES


def test_a_killed_child_is_named_by_its_signal():
    with pytest.raises(FailureError) as error:
        peak_of(["-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"])
    assert str(error.value) == (
        "Peak memory could not be measured: the process ended with signal 9.\nIt printed no error."
    )


@pytest.mark.parametrize("printed", ["", "hello", "[1, 2]", '{"peak": 3}', '{"baseline": null, "peak": 3}'])
def test_a_child_that_does_not_report(printed):
    with pytest.raises(FailureError) as error:
        peak_of(["-c", f"print({printed!r})"])
    assert str(error.value) == (
        f"Peak memory could not be measured: the process's last line is {printed!r}. It must call "
        "lissom.measure.footprint.report_peak(baseline) at its end."
    )


def test_a_child_that_hangs_is_stopped():
    with pytest.raises(FailureError) as error:
        peak_of(["-c", "import time; time.sleep(60)"], timeout_s=0.2)
    assert str(error.value) == (
        "Peak memory could not be measured: the process was still running after 0.2 s. Measure a smaller batch."
    )


def test_report_is_one_json_line(capsys):
    print("an unfinished line of a runtime", end="")
    report_peak(123)
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["baseline"] == 123
    assert report["peak"] > MIB


def test_without_proc_the_resource_module_answers(monkeypatch, tmp_path):
    exact = peak_bytes()
    monkeypatch.setattr(footprint, "STATUS", tmp_path / "none")
    monkeypatch.setattr(footprint, "CLEAR_REFS", tmp_path / "none" / "clear_refs")
    assert peak_bytes() == resident_bytes()
    # The same quantity in the same unit; a factor of 1024 would show.
    assert exact / 8 < peak_bytes() < exact * 8
    assert reset_peak() is False
