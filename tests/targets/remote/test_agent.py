"""The single file for boards: the same bytes each time, small, and enough."""

import ast
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

from device_servers import wait_until

from millifit.targets.remote.address import DeviceAddress
from millifit.targets.remote.agent import agent_bytes, modules, write_agent
from millifit.targets.remote.credentials import Credentials
from millifit.targets.remote.remote_device import device_facts

# What a board has: the runtime, and what that needs.
BOARD_HAS = {"ml_dtypes", "numpy", "tvm", "tvm_ffi"}


def test_the_same_sources_give_the_same_bytes() -> None:
    """In another process, too, whose sets have another order."""
    command = (
        "import hashlib; from millifit.targets.remote.agent import agent_bytes;"
        "print(hashlib.sha256(agent_bytes()).hexdigest())"
    )
    made = {
        subprocess.run(
            [sys.executable, "-c", command], capture_output=True, text=True, check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(made) == 1
    assert len(agent_bytes()) < 400_000


def test_it_has_the_modules_that_are_imported_and_no_compiler() -> None:
    """No schedules, no pipeline, no command line."""
    names = modules()
    assert {"millifit.targets.remote.session", "millifit.targets.timing"} <= names
    assert not {name for name in names if "schedules" in name or "lowering" in name}
    assert all(name.startswith(("millifit.targets", "millifit.errors")) or name == "millifit"
               for name in names)  # fmt: skip
    with zipfile.ZipFile(io.BytesIO(agent_bytes())) as archive:
        assert len(archive.namelist()) == len(names) + 1


def test_its_modules_import_what_a_board_has() -> None:
    """At their top, where an import cannot fail in silence."""
    foreign = set()
    with zipfile.ZipFile(io.BytesIO(agent_bytes())) as archive:
        for name in archive.namelist():
            for node in ast.parse(archive.read(name)).body:
                if isinstance(node, ast.Import):
                    foreign |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    foreign.add(str(node.module).partition(".")[0])
    assert foreign - set(sys.stdlib_module_names) - {"millifit"} <= BOARD_HAS


def test_it_serves_without_millifit_being_installed(tmp_path: Path) -> None:
    """Python, NumPy and the runtime are all that it finds."""
    from importlib.util import find_spec

    packages = tmp_path / "packages"
    packages.mkdir()
    for name in (*BOARD_HAS, "typing_extensions"):
        spec = find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        place = Path(spec.origin)
        place = place.parent if place.name == "__init__.py" else place
        (packages / place.name).symlink_to(place)
        libraries = place.with_name(f"{name}.libs")
        if libraries.exists():
            (packages / libraries.name).symlink_to(libraries)
    agent = write_agent(tmp_path / "device.pyz")
    assert os.access(agent, os.X_OK)
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [
                sys.executable, "-S", str(agent), "serve", "--port", "0",
                "--token-file", str(tmp_path / "token"),
            ],
            stderr=log, cwd=tmp_path,
            env={"PYTHONPATH": str(packages), "TMPDIR": str(tmp_path), "PATH": os.environ["PATH"]},
        )  # fmt: skip

    def said() -> str:
        return (tmp_path / "log").read_text()

    try:
        wait_until(lambda: "listening on " in said() or server.poll() is not None, 60)
        assert server.poll() is None, said()
        port = int(said().rpartition("listening on 127.0.0.1:")[2].split()[0])
        token = (tmp_path / "token").read_text().strip()
        facts = device_facts(DeviceAddress(host="127.0.0.1", port=port), Credentials(token=token))
        assert facts.versions["apache-tvm"].startswith("0.27.")
    finally:
        server.terminate()
        assert server.wait(20) == 0
    assert not list(tmp_path.glob("millifit-*"))
