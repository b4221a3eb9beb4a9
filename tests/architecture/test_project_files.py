"""Files about the project agree with each other: versions, bounds, workflows."""

import re
from pathlib import Path

import pytest

import torchfit

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def bounds():
    """Return the lower bounds of the four dependencies, as text."""
    dependencies = text("pyproject.toml").partition("\ndependencies = [")[2].partition("]")[0]
    return dict(re.findall(r'"([\w-]+)>=([\d.]+)"', dependencies))


def test_the_lower_bounds_are_what_is_tested():
    pins = dict(re.findall(r"^([\w-]+)==([\d.]+)$", text("constraints-min.txt"), re.MULTILINE))
    assert pins.keys() == bounds().keys()
    assert all(pins[name] == f"{bound}.0" for name, bound in bounds().items())


def test_each_lower_bound_has_its_reason_beside_it():
    lines = [
        line for line in text("pyproject.toml").splitlines() if re.match(r' {4}"(torch|numpy|pandas|tqdm)>=', line)
    ]
    assert len(lines) == 4
    assert all("  # " in line for line in lines)


def test_the_citation_has_the_version():
    assert f"\nversion: {torchfit.__version__}\n" in text("CITATION.cff")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_what_workflows_call_is_there(path):
    makefile, script = text("Makefile"), path.read_text(encoding="utf-8")
    for target in re.findall(r"\bmake ([a-z-]+)", script):
        assert f"\n{target}:" in makefile, target
    named = re.findall(r"(?<![\w./-])((?:tests|examples|benchmarks|\.ci)/[\w/.-]+|constraints[\w-]*\.txt)", script)
    for name in named:
        assert (ROOT / name.rstrip("/")).exists(), name


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_may_read_and_end(path):
    yaml = pytest.importorskip("yaml")
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    assert all("timeout-minutes" in job or "uses" in job for job in workflow["jobs"].values())


def test_the_oldest_python_is_tested():
    assert f'python: "{re.search(r"requires-python = .>=([.0-9]+).", text("pyproject.toml"))[1]}"' in text(
        ".github/workflows/tests.yml"
    )


ARCHITECTURE = text("ARCHITECTURE.md")
SOURCES = {path.as_posix(): path.read_text(encoding="utf-8") for path in ROOT.glob("torchfit/**/*.py")}


@pytest.mark.parametrize(("name", "file"), re.findall(r"`(\w+)` \(`([\w/]+\.py)`", ARCHITECTURE))
def test_the_architecture_says_where_things_are(name, file):
    found = [source for path, source in SOURCES.items() if path.endswith(f"/{file}")]
    assert any(re.search(rf"^(?:class|def) {name}\b|^    def {name}\b", source, re.MULTILINE) for source in found)


def test_the_architecture_names_what_there_is():
    named = {name for name in re.findall(r"`([A-Z]\w+)`", ARCHITECTURE) if not name.isupper()}
    known = set(re.findall(r"\w+", "".join(SOURCES.values())))
    assert named <= known
