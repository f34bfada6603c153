"""Doctor on this machine: packages, kernels, disk."""

from __future__ import annotations

from pathlib import Path

from agents.doctor.machine import examine_disk, examine_kernels, examine_packages


def test_packages_that_are_missing_or_of_another_version_are_named() -> None:
    (fine,) = examine_packages(["numpy>=2", "nothing-like-it; extra == 'dev'"])
    assert fine.level == "ok"
    assert "numpy" in fine.finding
    old, gone = examine_packages(["numpy<2", "nothing-like-it>=1", "msgspec"])
    assert (old.level, old.thing) == ("error", "package numpy")
    assert "<2 is asked for" in old.finding
    assert "nothing is installed" in gone.finding
    assert old.why
    assert gone.remedy


def test_kernels_that_each_start_would_compile_are_named(tmp_path: Path) -> None:
    assert "first start compiles" in examine_kernels(tmp_path).finding
    (tmp_path / "kernel-1.py311.nbi").touch()
    assert examine_kernels(tmp_path).finding == f"in {tmp_path}"
    missing = examine_kernels(Path("/proc/nowhere/deeper"))  # which nobody can make
    assert missing.level == "warning"
    assert "NUMBA_CACHE_DIR" in missing.remedy


def test_a_disk_that_is_nearly_full_is_named(tmp_path: Path) -> None:
    assert examine_disk(tmp_path, 50 << 30, 100 << 30).level == "ok"
    assert examine_disk(tmp_path, 2 << 30, 100 << 30).level == "warning"
    assert examine_disk(tmp_path, 50 << 20, 100 << 30).level == "error"
