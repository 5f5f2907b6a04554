"""README.md and docs/ agree with the code where a program can tell, and with each other."""

import re
from pathlib import Path

import pytest
from cllm import CllmError, cli, config
from httpd import Limits

ROOT = Path(__file__).resolve().parents[3]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()


def keys(section):
    """Return the names in the first column of a section's table in configuration.md."""
    text = CONFIGURATION.split(f"## {section}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    return set(re.findall(r"`(\w+)`", " ".join(rows)))


def test_every_key_of_the_configuration_is_documented(tmp_path):
    file = tmp_path / "config.json"
    file.write_text('{"no such key": 1}')
    with pytest.raises(CllmError) as caught:
        config.settings({}, file)
    known = set(str(caught.value).partition("known are ")[2].split(", "))
    assert keys("The machine") | keys("The guest") | keys("The model") == known


def test_every_key_of_the_network_is_documented():
    assert set(config.keys.NETWORK) <= keys("The network")


def test_every_limit_of_the_http_server_is_documented_with_its_default():
    assert set(vars(Limits())) <= keys("Limits")
    for name, value in vars(Limits()).items():
        row = re.search(rf"^\| .*`{name}`.*", CONFIGURATION, re.MULTILINE)[0]
        assert re.search(rf"\b{value}\b", row), row


def test_readme_has_every_flag_of_run(capsys):
    with pytest.raises(SystemExit):
        cli.main(["run", "--help"])
    flags = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help"}
    synopsis = (ROOT / "README.md").read_text().split("    cllm run ")[1].split("\n\n")[0]
    assert set(re.findall(r"--[a-z-]+", synopsis)) == flags


def test_readme_lists_every_document():
    listed = set(re.findall(r"`docs/([\w-]+\.md)`", (ROOT / "README.md").read_text()))
    assert listed == {path.name for path in (ROOT / "docs").glob("*.md")}


def test_the_lab_lists_every_file():
    folder = ROOT / "docs" / "lab"
    listed = re.findall(r"`(\d{4}-\d\d-\d\d-[\w-]+\.md)`", (folder / "README.md").read_text())
    assert sorted(listed) == sorted(path.name for path in folder.glob("2*.md"))


def anchors(path):
    headings = re.findall(r"^#+ (.*)", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if "://" not in target:
            file, _, anchor = target.partition("#")
            file = path.parent / file if file else path
            assert file.exists(), target
            assert not anchor or anchor in anchors(file), target
