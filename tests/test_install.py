"""What an installation gives: the native engine where it can be built, the Python engine otherwise, said plainly."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import dm
from dm import fast
from dm.engine import engine_in_use

ROOT = Path(__file__).resolve().parents[1]
#: The environment ./run made, when these tests run under it.
ENVIRONMENT = os.environ.get("X86_DM_VENV")


@pytest.mark.fresh
@pytest.mark.skipif(ENVIRONMENT is None, reason="not under ./run test: the source tree is tested, not an installation")
def test_the_installed_package_is_tested_on_its_native_engine() -> None:
    assert ENVIRONMENT is not None
    assert Path(dm.__file__).is_relative_to(ENVIRONMENT)
    assert engine_in_use()[0] == "native"
    extension = importlib.import_module("dm.engine._native")
    assert Path(str(extension.__file__)).is_relative_to(ENVIRONMENT)
    assert fast.module() is not None


def copy_source(to: Path) -> Path:
    """Copy what a build needs, links as links, so that it leaves nothing in the tree."""
    for name in ("dm", "protocol"):
        shutil.copytree(ROOT / name, to / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, to / name)
    return to


def build(source: Path, kind: str, to: Path, **environment: str) -> Path:
    """Build a wheel or sdist without a network and return the file."""
    code = f"import sys\nfrom setuptools import build_meta\nprint(build_meta.build_{kind}(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(to)],
        cwd=source, env=os.environ | environment, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return to / done.stdout.splitlines()[-1]


def unpack(sdist: Path, to: Path) -> None:
    """Unpack an archive of ours; Debian 12's Python (3.11.2) has no filters yet (PEP 706), later ones ask for one."""
    with tarfile.open(sdist) as archive:
        archive.extractall(to, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))


@pytest.fixture(scope="module")
def no_compiler(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a PATH on which no C compiler stands."""
    place = tmp_path_factory.mktemp("bin")
    for tool in ("sh", "env", "uname", "ls"):
        found = shutil.which(tool)
        assert found
        (place / tool).symlink_to(found)
    return str(place)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of everything that is kept, without what tools leave behind."""
    unkept = shutil.ignore_patterns("__pycache__", ".*cache*", ".git", ".hypothesis", "*.so", "*.egg-info", "build")
    return Path(shutil.copytree(ROOT, tmp_path_factory.mktemp("source") / "tree", symlinks=True, ignore=unkept))


@pytest.fixture(scope="module")
def sdist(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tree, "sdist", tmp_path_factory.mktemp("sdist"))


def test_the_sdist_holds_the_protocol_as_files(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        members = {m.name.partition("/")[2]: m for m in archive.getmembers()}
    assert members["dm/protocol/schema.py"].isfile()
    assert not any(m.issym() or m.islnk() for m in members.values())
    assert {"setup.py", "pyproject.toml", "LICENSE", "README.md", "dm/py.typed"} <= members.keys()


def test_the_sdist_is_the_whole_tree(tree: Path, sdist: Path, tmp_path: Path) -> None:
    """Whoever has it can do what the README says: ./run finds what it copies, the tests what they read."""
    unpack(sdist, tmp_path)
    (unpacked,) = tmp_path.iterdir()
    kept = [path.relative_to(tree) for path in tree.rglob("*") if path.is_file() and "egg-info" not in str(path)]
    assert Path("protocol/schema.py") in kept
    missing = {str(path) for path in kept if not (unpacked / path).is_file()}
    assert missing <= {".gitignore"}
    (copies,) = re.findall(r'cp -RP (.*) "\$work/src"', (unpacked / "run").read_text())
    assert all((unpacked / name).exists() for name in copies.split())
    assert os.access(unpacked / "run", os.X_OK)
    assert os.access(unpacked / "qemu-patches/build.sh", os.X_OK)


def test_without_a_compiler_the_python_engine_is_installed_and_says_so(
    sdist: Path, no_compiler: str, tmp_path: Path
) -> None:
    """Build from the sdist, install into an environment of its own that sees our dependencies, and ask it."""
    unpack(sdist, tmp_path / "unpacked")
    (source,) = (tmp_path / "unpacked").iterdir()
    wheel = build(source, "wheel", tmp_path, PATH=no_compiler, CC="no-such-compiler", X86_DM_NATIVE="")
    names = zipfile.ZipFile(wheel).namelist()
    assert "dm/protocol/schema.py" in names
    assert "dm/py.typed" in names
    assert not any(name.endswith(".so") for name in names)

    venv.create(tmp_path / "venv", symlinks=True)
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    zipfile.ZipFile(wheel).extractall(site)
    (site / "dependencies.pth").write_text("\n".join(p for p in sys.path if p.endswith("site-packages")))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [tmp_path / "venv/bin/python", "-m", "dm.cli", "--version"],
        cwd=tmp_path, env=environment, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    engine = done.stdout.splitlines()[1]
    assert engine.startswith("engine: python ("), engine


def test_a_native_engine_that_is_required_but_cannot_be_built_is_an_error(no_compiler: str, tmp_path: Path) -> None:
    source = copy_source(tmp_path / "source")
    with pytest.raises(AssertionError, match="no-such-compiler"):
        build(source, "wheel", tmp_path, PATH=no_compiler, CC="no-such-compiler", X86_DM_NATIVE="require")
