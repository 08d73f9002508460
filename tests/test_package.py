"""What is built and shipped: the wheel, the source distribution and the steps of the container for a processor.

The Dockerfile's own steps make the wheel and install it into an environment that has what `[cpu]` requires and
nothing else, in folders of their own. Nothing is downloaded: what is required is linked from this environment.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import gmos_deploy
from gmos_deploy.runtime.results.mp4_writer import Mp4Writer

ROOT = Path(gmos_deploy.__file__).parent
TOOL = ROOT / "tools" / "device_environment.py"
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
COMMIT = "0123456789ab"
WHEEL_LIMIT = 16_000_000
"""Bytes."""

BUILD = "import sys; from setuptools.build_meta import {hook}; {hook}(sys.argv[1])"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the steps are those of a shell")


def clean_environment(**added: str) -> dict[str, str]:
    """This process's, without what leads Python or pip to other places."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PIP_"))}
    return {**kept, "PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **added}


def make_dependencies(root: Path, *extras: str) -> Path:
    """An environment with what gmos-deploy with these extras requires, without itself."""
    words = [word for extra in extras for word in ("--extra", extra)]
    subprocess.run([sys.executable, TOOL, root, "--dependencies", *words], check=True, capture_output=True)
    return root


def install(environment: Path, what: str) -> None:
    """Install it; pip finds what it requires in the environment, or fails."""
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        environment,
        "install",
        "--no-index",
        "--quiet",
        "--no-compile",
    ]
    subprocess.run([*pip, what], check=True, env=clean_environment())


@dataclass
class Shop:
    """What the Dockerfile has made: folders of its stages in place of an image's root, and the environment."""

    source: Path
    wheel: Path
    environment: Path

    def run(self, program: str, *words: object, cwd: Path, cache: Path) -> subprocess.CompletedProcess[str]:
        """A program that was installed, as a user runs it."""
        return subprocess.run(
            [self.environment / "bin" / program, *map(str, words)],
            cwd=cwd,
            env=clean_environment(XDG_CACHE_HOME=str(cache), HOME=str(cache)),
            capture_output=True,
            text=True,
            check=False,
        )


def steps(dockerfile: Path) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, with lines joined."""
    text = re.sub(r"^#.*\n", "", dockerfile.read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def copy_context(target: Path) -> None:
    """What `COPY . .` copies: all that .dockerignore does not name, at the root or, after `**/`, anywhere."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]

    def ignored(folder: str, names: list[str]) -> set[str]:
        here = [pattern for pattern in patterns if Path(folder) == ROOT and "/" not in pattern]
        here += [pattern.removeprefix("**/") for pattern in patterns if pattern.startswith("**/")]
        return {name for name in names for pattern in here if fnmatch.fnmatch(name, pattern)}

    shutil.copytree(ROOT, target, ignore=ignored, dirs_exist_ok=True)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Follow docker/cpu.Dockerfile: its RUN lines go to a shell as they stand, with folders in place of `/…`."""
    root = tmp_path_factory.mktemp("image")
    environment = make_dependencies(root / "environment", "cpu")
    binaries = root / "bin"
    binaries.mkdir()
    stages: dict[str, Path] = {}
    stage, folder, variables = root, root, {"COMMIT": COMMIT}
    for word, rest in steps(ROOT / "docker" / "cpu.Dockerfile"):
        if word == "FROM":
            image, _, name = rest.partition(" AS ")
            assert image.startswith("python:3.")
            stage = stages[name] = root / f"stage{len(stages)}"
            stage.mkdir()
            folder = stage
            # The first builds with this Python's setuptools, the last installs into the environment.
            target = "" if name else f"--python {shlex.quote(str(environment))}"
            script = f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m pip {target} "$@"\n'
            (binaries / "pip").write_text(script, encoding="utf-8")
            (binaries / "pip").chmod(0o755)
        elif word == "WORKDIR":
            folder = stage / rest.lstrip("/")
            folder.mkdir(parents=True)
        elif word == "COPY":
            words = rest.split()
            if words[0].startswith("--from="):
                shutil.copytree(
                    stages[words[0].partition("=")[2]] / words[1].lstrip("/"), stage / words[2].lstrip("/")
                )
            else:
                assert words == [".", "."]
                copy_context(folder)
        elif word == "RUN":
            command = re.sub(r"(?<=[\s\"'])/(wheels|source)\b", rf"{stage}/\1", rest)
            path = f"{binaries}:{os.environ['PATH']}"
            # Without an index; setuptools is this environment's.
            added = {"PATH": path, "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_QUIET": "1"}
            subprocess.run(
                ["/bin/sh", "-ec", command],
                cwd=folder,
                check=True,
                env=clean_environment(**added, **variables),
            )
        else:
            assert word in ("ARG", "ENV", "USER", "CMD")
    (wheel,) = (stage / "wheels").iterdir()
    return Shop(source=stages["wheel"] / "source", wheel=wheel, environment=environment)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short .mp4 in which a box moves over a texture, in a folder of its own."""
    texture = np.random.default_rng(0).integers(60, 120, (112, 196, 3), np.uint8)
    path = tmp_path_factory.mktemp("videos") / "clip.mp4"
    with Mp4Writer(path, video_hw=(112, 196), fps=10) as writer:
        for index in range(4):
            frame = texture.copy()
            frame[30:80, 20 + 12 * index : 70 + 12 * index] = (220, 30, 30)
            writer.write(frame, index / 10)
    return path


def test_the_first_command(shop: Shop, clip: Path, tmp_path: Path) -> None:
    """`pip install WHEEL[cpu] && gmos-run clip.mp4`: masks, an overlay and where to look, without PyTorch."""
    ran = shop.run("gmos-run", clip.name, cwd=clip.parent, cache=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "ONNX Runtime" in ran.stdout
    assert ran.stdout.splitlines()[-1] == "look at gmos-output/mos-i_mp4/clip.mp4"
    assert (clip.parent / "gmos-output/mos-i_mp4/clip.mp4").stat().st_size > 0
    assert len(list((clip.parent / "gmos-output/mos_frame/clip").glob("*.png"))) == 4
    for package in ("torch", "sam2", "onnx", "safetensors"):
        missing = shop.run("python", "-c", f"import {package}", cwd=tmp_path, cache=tmp_path)
        assert "ModuleNotFoundError" in missing.stderr


def test_installed_is_the_wheel_alone(shop: Shop, tmp_path: Path) -> None:
    """Nothing of the checkout: the package lies in the environment, and tells the commit it was built from."""
    where = shop.run(
        "python", "-c", "import gmos_deploy; print(gmos_deploy.__file__)", cwd=tmp_path, cache=tmp_path
    )
    assert Path(where.stdout.strip()).is_relative_to(shop.environment)
    told = shop.run("gmos-doctor", "--version", cwd=tmp_path, cache=tmp_path)
    assert told.stdout == f"gmos-doctor {gmos_deploy.__version__} (commit {COMMIT})\n"


def test_without_an_extra(shop: Shop, clip: Path, tmp_path: Path) -> None:
    """The message names the one to install."""
    bare = make_dependencies(tmp_path / "bare")
    install(bare, str(shop.wheel))
    ran = Shop(source=shop.source, wheel=shop.wheel, environment=bare).run(
        "gmos-run", clip.name, "--save_dir", tmp_path / "out", cwd=clip.parent, cache=tmp_path
    )
    assert ran.returncode == 2
    assert "pip install 'gmos-deploy[cpu]'" in ran.stderr.splitlines()[-1]


def contents(wheel: Path) -> dict[str, int]:
    """The files of a wheel with their checksums, without the list of them."""
    with zipfile.ZipFile(wheel) as archive:
        return {one.filename: one.CRC for one in archive.infolist() if not one.filename.endswith("/RECORD")}


def test_the_wheel(shop: Shop) -> None:
    """Small, complete, and without tests and tools."""
    assert shop.wheel.stat().st_size < WHEEL_LIMIT
    files = set(contents(shop.wheel))
    inside = {name.partition("/")[2] for name in files if name.startswith("gmos_deploy/")}
    shipped = {
        str(path.relative_to(ROOT))
        for pattern in ("*.py", "*.typed", "*/**/*.py", "*/**/*.npz", "*/**/*.safetensors", "*/**/*.zip")
        for path in ROOT.glob(pattern)
        if (ROOT / path.relative_to(ROOT).parts[0] / "__init__.py").exists() or path.parent == ROOT
    }
    assert inside == shipped - {"setup.py"} | {"commit.txt"}
    assert all(name.startswith(("gmos_deploy/", "gmos_deploy-")) for name in files)


def test_the_source_distribution_makes_the_same_wheel(shop: Shop, tmp_path: Path) -> None:
    """File by file; tests and tools stay in the repository."""
    for folder in ("tests", "tools", "benchmarks"):
        (shop.source / folder).mkdir()
        (shop.source / folder / "test_one.py").touch()

    def build(hook: str, folder: Path) -> Path:
        made = tmp_path / hook
        made.mkdir()
        words = [sys.executable, "-c", BUILD.format(hook=hook), str(made)]
        subprocess.run(words, cwd=folder, check=True, env=clean_environment(), capture_output=True)
        return next(iter(made.iterdir()))

    with tarfile.open(build("build_sdist", shop.source)) as archive:
        names = archive.getnames()
        archive.extractall(tmp_path, filter="data")
    assert not {"tests", "tools", "benchmarks", "docs"} & {Path(name).parts[1] for name in names[1:]}
    assert contents(build("build_wheel", tmp_path / names[0].partition("/")[0])) == contents(shop.wheel)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_containers_are_not_root(dockerfile: Path) -> None:
    """The last user is a number above 0; results go where a volume is mounted; every argument has a default."""
    given = steps(dockerfile)
    (user,) = [rest for word, rest in given if word == "USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert [word for word, _ in given].index("USER") > max(
        i for i, (word, _) in enumerate(given) if word == "RUN"
    )
    assert [rest for word, rest in given if word == "WORKDIR"][-1] == "/videos"
    assert all("=" in rest for word, rest in given if word in ("ARG", "ENV"))
    text = (ROOT / "docker" / "README.md").read_text(encoding="utf-8")
    assert f"docker build -f docker/{dockerfile.name} " in text
    (image,) = {rest.split()[0] for word, rest in given if word == "FROM"}
    assert f"`{image}`" in text


def test_what_containers_install_is_declared() -> None:
    """Extras in the Dockerfiles exist, and CUDA's bindings are those of the extras."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for dockerfile in DOCKERFILES:
        for _, rest in steps(dockerfile):
            for extra in re.findall(r"\[(\w+)\]", rest):
                assert re.search(rf"^{extra} = \[", project, re.MULTILINE)
            for least in re.findall(r"cuda-bindings>=([\d.]+)", rest):
                assert f'"cuda-bindings>={least}"' in project
