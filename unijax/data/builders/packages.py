"""Fetches public packages through their ordinary clients and unpacks them without installing."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from unijax.core.errors import UserError


def _run(command: list[str], folder: Path) -> None:
    folder.mkdir(parents=True)
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise UserError(
            " ".join(command),
            f"no program {command[0]}",
            "the package client on the PATH",
            f"Install {command[0]}.",
        ) from None
    except subprocess.CalledProcessError as error:
        raise UserError(
            " ".join(command),
            f"exit status {error.returncode}: {error.stderr.strip()[-300:]}",
            "the package to be downloaded",
            "Check the network and that this version is still published.",
        ) from None


def unpack_npm(package: str, version: str, into: Path) -> Path:
    """The files of a package of npm (`npm pack`), unpacked under `into`."""
    folder = into / package.replace("/", "-")
    _run(["npm", "pack", "--silent", f"{package}@{version}"], folder)
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / "package"


def unpack_apt(package: str, version: str, into: Path) -> Path:
    """The files of a Debian package (`apt-get download`), unpacked under `into`."""
    folder = into / package
    _run(["apt-get", "download", f"{package}={version}"], folder)
    (archive,) = folder.glob("*.deb")
    _run(["dpkg-deb", "-x", str(archive), "."], folder / "root")
    return folder / "root"


def unpack_pip(package: str, version: str, into: Path) -> Path:
    """The files of a wheel (`pip download`), unpacked under `into`."""
    folder = into / package
    _run([sys.executable, "-m", "pip", "download", "--no-deps", f"{package}=={version}"], folder)
    (archive,) = folder.glob("*.whl")
    with zipfile.ZipFile(archive) as wheel:
        wheel.extractall(folder / "root")
    return folder / "root"
