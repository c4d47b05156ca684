"""The programs that are measured: where they are, how they are built, what they are called in a report."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GARAGE_VERSION = "2.5.0"

#: Variables that would lead a program elsewhere, or make it say more than it does by default.
FOREIGN = ("SKERRY_", "AWS_", "GARAGE_", "RUST_LOG", "OTEL_")
KEPT = ("SKERRY_CACHE_DIR",)


def say(text):
    """Tells the person in front of it how far it is."""
    print(text, file=sys.stderr, flush=True)


def forget_variables():
    """What we start must behave the same in everybody's shell."""
    for name in [name for name in os.environ if name.startswith(FOREIGN) and name not in KEPT]:
        del os.environ[name]


def cache_folder():
    """The same folder as `cargo xtask` uses."""
    if named := os.environ.get("SKERRY_CACHE_DIR"):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "skerry"


def skerry(given=None):
    """The program in release, built now unless one is given."""
    if given is not None:
        return _existing(given)
    say("builds skerry in release")
    cargo = os.environ.get("CARGO", "cargo")
    subprocess.run([cargo, "build", "--release", "--locked", "--package", "skerry"], cwd=ROOT, check=True)
    command = [cargo, "metadata", "--no-deps", "--format-version", "1", "--locked"]
    metadata = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return _existing(Path(json.loads(metadata)["target_directory"]) / "release" / "skerry")


def garage(given=None):
    """The peer; built into the cache folder if it isn't there."""
    if given is not None:
        return _checked_garage(_existing(given))
    found = cache_folder() / "tools" / "bin" / "garage"
    if not found.is_file():
        _install_garage()
    return _checked_garage(_existing(found))


def commit():
    """What is measured, and whether the tree differs from it."""
    head = _git("rev-parse", "--short=12", "HEAD") or "unknown"
    return head + (" with changes" if _git("status", "--porcelain") else "")


def _install_garage():
    cache = cache_folder()
    say(f"installs garage {GARAGE_VERSION} into {cache / 'tools'}: a build of 15 minutes and more, once")
    command = [os.environ.get("CARGO", "cargo"), "install", "garage", "--version", GARAGE_VERSION, "--locked"]
    # A target folder of its own: what a build that broke off has done is found again, ours stays as it is.
    environment = {**os.environ, "CARGO_TARGET_DIR": str(cache / "garage-target")}
    subprocess.run([*command, "--root", str(cache / "tools")], env=environment, check=True)


def _checked_garage(path):
    done = subprocess.run([str(path), "--version"], capture_output=True, text=True, check=True)
    if GARAGE_VERSION not in done.stdout or "lmdb" not in done.stdout:
        raise SystemExit(f"{path} is not garage {GARAGE_VERSION} with lmdb but: {done.stdout.strip()}")
    return path


def _existing(path):
    path = Path(path).resolve()
    if not path.is_file():
        raise SystemExit(f"there is no program at {path}")
    return path


def _git(*words):
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
