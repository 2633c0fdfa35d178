"""What the documents promise: one page, links that lead somewhere, options that exist, and a section that runs."""

import re
import shlex

import pytest
from conftest import ROOT

from training.arguments.data import DataArguments
from training.arguments.model import ModelArguments
from training.arguments.parser import parse_arguments
from training.arguments.train import TrainArguments
from training.engine.contrastive_training import train

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(path for room in ("training", "examples", "tests", "modeling_eclip")
                                          for path in (ROOT / room).rglob("*.md")
                                          if "node_modules" not in path.parts)])  # fmt: skip
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)


def anchors(document):
    """The names by which the headings of a document are linked to."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def own_csv_section():
    """Languages and texts of the code blocks of the README's section on one's own table."""
    section = (ROOT / "README.md").read_text().split("## Your own CSV, start to finish\n")[1].split("\n## ")[0]
    return re.findall(r"```(\w+)\n(.*?)```", section, re.DOTALL)


def test_the_readme_is_one_page():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 160
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) <= 110


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(document):
    links = re.findall(r"\]\(([^)\s]+)\)", CODE.sub("", document.read_text()))
    for link in links:
        name, _, anchor = link.partition("#")
        if "://" not in link:
            target = document.parent / name if name else document
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def test_options_that_the_documents_name_exist():
    scripts = [*(ROOT / "training").rglob("*.py"), *(ROOT / "tests" / "benchmarks").glob("*.py")]
    source = "\n".join(path.read_text() for path in scripts)
    known = set(re.findall(r"^    (\w+):", source, re.MULTILINE)) | set(re.findall(r"\"--([\w-]+)\"", source))
    rooms = [ROOT, ROOT / "training", ROOT / "training" / "benchmark", ROOT / "tests" / "benchmarks"]
    for document in (room / "README.md" for room in rooms):
        for option in re.findall(r"(?<![\w-])--([a-z][\w-]*)", document.read_text()):
            assert option in known | {"help"}, f"{document.relative_to(ROOT)}: --{option}"


def test_the_section_on_ones_own_csv_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "training").symlink_to(ROOT / "training")
    languages = [language for language, _ in own_csv_section()]
    assert languages == ["python", "sh", "python"]
    for language, block in own_csv_section():
        if language == "python":
            assert "toy_catalog(" not in block or "toy_catalog(1000)" in block
            exec(compile(block.replace("toy_catalog(1000)", "toy_catalog(150)"), "README.md", "exec"), {})
        else:
            accelerate, launch, script, *words = shlex.split(block.replace("\\\n", " "))
            assert (accelerate, launch, script) == ("accelerate", "launch", "training/train.py")
            few = ["--max_samples", "32", "--batch_size", "16", "--num_workers", "0"]
            train(*parse_arguments((ModelArguments, DataArguments, TrainArguments), [*words, *few]))
    printed = capsys.readouterr().out
    assert "name" in printed and printed.count("photos/") == 5
