"""The code itself, and what it needs, as the tools that look for insecure code see them."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.licences import dependencies

ROOT = Path(__file__).parents[2]
SHIPPED = ("__init__.py", "prolora", "nodes", "comfy_harness")
# What bandit says of (file, test) -> why it is so.
REASONS = {
    ("comfy_harness/client.py", "B310"): "it talks to the server that it is told, on this machine",
    ("comfy_harness/server.py", "B310"): "it asks the server that it started, on this machine",
    ("comfy_harness/server.py", "B404"): "it starts a ComfyUI",
    ("comfy_harness/server.py", "B603"): "it starts a ComfyUI, and no shell",
    ("prolora/adapters/patterns.py", "B105"): "pieces of a pattern, which are called tokens",
    ("prolora/models/text_encoder_layout.py", "B105"): "the name of a tensor: token_embedding",
}
ASSERTS = "B101"  # they tell mypy what is so; what a user may get wrong raises a ProLoRAError


def tool(name: str, *arguments: str) -> str:
    """What a tool of requirements/audit.txt prints, which `make audit` installs."""
    path = shutil.which(name) or shutil.which(name, path=ROOT / ".venv" / "audit" / "bin")
    if path is None:
        pytest.skip(f"{name} is not installed: make audit")
    done = subprocess.run([path, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr  # 1: something was found
    return done.stdout


def test_insecure_code(tell):
    """Bandit, over what is shipped and what starts hosts."""
    report = json.loads(tool("bandit", "-q", "-f", "json", "-r", *SHIPPED))
    assert report["errors"] == []
    found = {(one["filename"].removeprefix("./"), one["test_id"]) for one in report["results"]}
    judged = {one for one in found if one[1] != ASSERTS}
    assert judged == REASONS.keys()
    lines = report["metrics"]["_totals"]["loc"]
    said = f"{lines:,} lines, nothing of severity high; {len(REASONS)} places with a reason each"
    tell("static", "bandit on prolora, nodes and comfy_harness", 1, said)


def test_rules_of_ruff(tell):
    """Its S rules, which are flake8-bandit's, over everything; `make lint` asks them as well."""
    check = (sys.executable, "-m", "ruff", "check", ".", "--output-format", "json")
    done = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, check=False)
    assert [one for one in json.loads(done.stdout) if re.match(r"S\d", one["code"])] == []
    tell("static", "ruff's S rules on all of the repository", 1, "nothing")


def test_known_vulnerabilities(tell):
    """pip-audit, over every version that is pinned."""
    pinned = ROOT / "requirements" / "constraints.txt"
    options = ("--no-deps", "--disable-pip", "--progress-spinner", "off", "-f", "json")
    report = json.loads(tool("pip-audit", "-r", str(pinned), *options))
    packages = report["dependencies"]
    looked_up = [one for one in packages if "skip_reason" not in one]
    bad = {one["name"]: [v["id"] for v in one["vulns"]] for one in looked_up if one["vulns"]}
    tried = "pip-audit on every pinned version (extras, host and tools)"
    if not looked_up:
        said = f"not known: its database could not be reached for any of {len(packages)} packages"
        tell("static", tried, len(packages), said)
        pytest.skip(said)
    left_out = len(packages) - len(looked_up)
    said = f"{len(bad)} of {len(looked_up)} packages with a known vulnerability ({bad or 'none'})"
    tell("static", tried, len(packages), f"{said}; {left_out} could not be looked up")
    assert not bad and not left_out


def test_licences(tell):
    found = dependencies()
    assert all(one.is_allowed for one in found)
    direct = sum(one.is_direct for one in found)
    said = (
        f"all allowed: {direct} that the extras name, {len(found) - direct} that those bring along"
    )
    tell("static", "licences of all dependencies", len(found), said)


def test_the_registrys_scan(tell):
    """`make registry`, which `make audit` runs first."""
    log = ROOT / "build" / "registry.log"
    if not log.is_file():
        pytest.skip("make audit runs it")
    said = log.read_text(encoding="utf-8")
    assert "All validation checks passed" in said and "Forbidden patterns check: OK" in said
    assert "FAILED" not in said
    levels = sorted(set(re.findall(r"^\[(\w+)\] PASSED", said, re.MULTILINE)))
    assert "HAZARDS" in levels
    passed = ", ".join(level.lower() for level in levels)
    tried = "the registry's scan: comfy node validate, comfy-test"
    tell("static", tried, len(levels) + 1, f"validate passed, and the levels {passed}")
