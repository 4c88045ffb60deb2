"""The pages say what is there: commands, settings and links are real, tables are narrow, and the site opens offline."""

import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from conftest import Browser
from typer.main import get_command

from siamese_diffusion.cli import app
from siamese_diffusion.config import load_config
from siamese_diffusion.errors import InputError
from siamese_diffusion.settings import sections
from siamese_diffusion.studies.schema import ArmEntry, DataSource, StudyFile
from siamese_diffusion.studies.spec import load_study

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
ARCHIVE = DOCS / "results" / "archive"
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks/README.md", *DOCS.rglob("*.md")],
    key=lambda page: page.relative_to(ROOT).as_posix(),
)
NEW = [page for page in PAGES if page.is_relative_to(DOCS) and not page.is_relative_to(ARCHIVE)]
PROGRAM: Any = get_command(app)  # of click, or of typer's own copy of it
LAUNCH = re.compile(r"siamese-diffusion|-m siamese_diffusion")
MOST_WORDS = 16_000
MOST_COLUMNS = 5


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def each(pages: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", pages, ids=name_of)


def code(text: str) -> Iterator[str]:
    """The lines of code of a page, whole where a backslash goes on, and what stands between backticks."""
    prose: list[str] = []
    fenced = False
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            yield line
        else:
            prose.append(line if line.startswith("|") or not line else f"{line} ")
    for paragraph in "\n".join(prose).replace(" \n", " ").split("\n"):
        yield from re.findall(r"`([^`]+)`", paragraph)


def commands(text: str) -> list[list[str]]:
    """The calls of the program in a page, each as its words after the program's name."""
    found = []
    for line in code(text):
        for call in re.split(r"&&|\|\||;|\$\(", line.split(" # ")[0]):
            match = LAUNCH.search(call)
            if match and re.fullmatch(r"(.*[\s#])?", call[: match.start()]) and call[match.end() :][:1] in ("", " "):
                words = shlex.split(call[match.end() :].replace("|", "/"), comments=True)
                found.append([word for word in words if word not in ("...", "do", "done")])
    return found


def refuse(words: list[str]) -> str | None:
    """Why the program would not take such a call, whatever its folders hold; None where it would."""
    command = PROGRAM
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        if words[0] not in command.commands:
            return f"no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    parser = command.make_parser(command.context_class(command))
    try:
        options, _, _ = parser.parse_args(list(words))
    except Exception as error:
        if not hasattr(error, "format_message"):  # of click's usage errors
            raise
        return str(error.format_message())
    given = options.get("settings") or []
    values = [entry for entry in given if not re.search(r"[A-Z]{3}|\$", entry.partition("=")[2])]
    try:
        load_config(None, list(values))
    except InputError as error:
        return str(error)
    return None


def called(text: str) -> Iterator[tuple[list[str], str | None]]:
    return ((words, refuse(words)) for words in commands(text))


def test_calls_are_found_and_wrong_ones_are_refused() -> None:
    text = "`siamese-diffusion train --data D`\n\n    siamese-diffusion sample \\\n  --out X && siamese-diffusion nil"
    assert commands(text) == [["sample", "--out", "X"], ["nil"], ["train", "--data", "D"]]
    assert refuse(["train", "--data", "DATA", "--out", "RUN", "--resume"]) is None
    assert "no command" in (refuse(["nil"]) or "")
    assert "No such option" in (refuse(["train", "--dta", "X"]) or "")
    assert "requires an argument" in (refuse(["train", "--data"]) or "")
    assert "unknown setting" in (refuse(["train", "--set", "train.stps=3"]) or "")
    assert sum(len(commands(page.read_text())) for page in NEW) > 80


@each(PAGES)
def test_every_call_in_a_page_is_one_that_the_program_takes(page: Path) -> None:
    wrong = [f"{' '.join(words)}: {why}" for words, why in called(page.read_text()) if why]
    assert wrong == []


@each([page for page in PAGES if page != ARCHIVE / "networks.md"])  # which has the keys of published weights
def test_every_setting_in_a_page_exists(page: Path) -> None:
    known = {f"{section}.{key}" for section, kind in sections().items() for key in kind.model_fields}
    files = r"py|png|jpg|csv|json|jsonl|yaml|yml|zip|md|html|tar|dcm|nii|txt"
    named = {
        name
        for text in re.findall(r"`([^`\n]+)`", page.read_text())
        for name in re.findall(rf"(?<![\w/.-])(?:{'|'.join(sections())})\.[a-z_]+\b(?!\()", text)
        if not re.search(rf"\.(?:{files})$", name)
    }
    data_of_a_study = {"data.NAME", "evaluate.settings"}
    assert {name for name in named if name not in known | data_of_a_study} == set()


@each([page for page in PAGES if not page.is_relative_to(ARCHIVE)])
def test_every_option_in_a_page_exists(page: Path) -> None:
    """Of our program: an option in backticks that begins with it, or follows a command's name."""
    options = {name for command in walk(PROGRAM) for parameter in command.params for name in parameter.opts}
    options |= {name for command in walk(PROGRAM) for parameter in command.params for name in parameter.secondary_opts}
    others = {
        "--size",
        "--count",
        "--verify_dataset_integrity",
        "--multi_gpu",
        "--cpu",
        "--num_processes",
        "--achieved",
    }
    named = {
        found
        for text in re.findall(r"`([^`\n]+)`", page.read_text())
        if not re.match(r"(python|accelerate|bash|pip|mkdocs|\w+\.py|\w+\.sh|kills|mutate|disk|soak)\b", text)
        for found in re.findall(r"(?<![\w-])--[a-z][a-z_-]+", text)
    }
    assert named - options - others - {"--help", "--strict"} == set()


def walk(command: Any) -> Iterator[Any]:
    yield command
    for inner in getattr(command, "commands", {}).values():
        yield from walk(inner)


def test_the_study_that_is_explained_can_be_run(tmp_path: Path) -> None:
    text = (DOCS / "study.md").read_text()
    block = re.search(r"(?m)^    title:.*\n(?:    .*\n)+", text)
    assert block is not None
    (tmp_path / "study.yaml").write_text(re.sub(r"(?m)^    ", "", block[0]))
    study = load_study(tmp_path / "study.yaml")
    assert [arm.name for arm in study.arms] == [
        "real",
        "copy-paste",
        "mask-only",
        "siamese x0.5",
        "siamese x1",
        "siamese x2",
    ]


@pytest.mark.parametrize(("table", "kind"), [("data", DataSource), ("arm", ArmEntry), ("whole file", StudyFile)])
def test_every_entry_of_a_study_is_explained(table: str, kind: Any) -> None:
    text = (DOCS / "study.md").read_text()
    rows = re.search(rf"(?m)^\| {table} \|.*\n(?:\|.*\n)+", text)
    assert rows is not None
    explained = {
        name.partition(".")[0]
        for row in rows[0].splitlines()[2:]
        for name in re.findall(r"`([a-z_.]+)`", row.split("|")[1])
    }
    shown = set(re.findall(r"(?m)^    (\w+):", text)) if kind is StudyFile else set()
    assert explained <= set(kind.model_fields)
    assert explained | shown == set(kind.model_fields)


def anchors(page: Path) -> set[str]:
    """The names that the headings of a page can be linked by, as GitHub and mkdocs make them."""
    found: set[str] = set()
    fenced = False
    for line in page.read_text().splitlines():
        fenced ^= line.startswith("```")
        match = re.match(r"#+ (.+)", line)
        if match and not fenced:
            plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", match[1])
            found.add(re.sub(r"[^\w\- ]", "", plain.lower()).strip().replace(" ", "-"))
    return found


@each(PAGES)
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
        elif page.is_relative_to(DOCS) and not file.is_relative_to(DOCS):
            broken.append(f"{target} leads out of the site")
    assert broken == []


@each([ROOT / "README.md", *NEW])
def test_no_table_is_wider_than_a_reader(page: Path) -> None:
    wide = [line for line in page.read_text().splitlines() if re.match(r"\|[-| :]+\|$", line)]
    assert [line for line in wide if line.count("|") - 1 > MOST_COLUMNS] == []


def test_the_pages_stay_short() -> None:
    assert sum(len(page.read_text().split()) for page in NEW) <= MOST_WORDS


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text()))
    assert {page.relative_to(DOCS).as_posix() for page in PAGES if page.is_relative_to(DOCS)} == listed


def load(script: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(script.stem, script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[script.stem] = module
    spec.loader.exec_module(module)
    return module


def test_the_picture_of_the_study_shows_the_recorded_tables(tmp_path: Path) -> None:
    script = load(ROOT / "benchmarks/figures/study_curves.py")
    found = script.panels(script.TABLES.read_text())
    unet = found["Polyps, U-Net"]
    assert [(point.pairs, point.mean, point.spread) for point in unet["real"]] == [
        (25, 57.5, 0.9),
        (100, 69.1, 0.4),
        (200, 68.5, 0.6),
        (400, 67.8, 0.6),
    ]
    assert [point.mean for point in unet["siamese"]] == [62.0, 66.8, 67.5, 68.1]
    assert [point.mean for point in found["Polyps, SANet"]["copy-paste"]] == [49.9, 51.7, 50.9]
    assert [point.mean for point in found["Skin lesions, U-Net"]["adc"]] == [83.2, 84.7, 84.6]
    script.draw(found, tmp_path / "study.svg")
    assert (tmp_path / "study.svg").read_text().startswith("<?xml")


def test_the_table_of_the_results_is_the_recorded_one() -> None:
    """Every difference on the page stands in the archive, with the same interval."""
    differences = re.findall(r"[+-]\d+\.\d \[[+-]\d+\.\d, [+-]\d+\.\d\]", (DOCS / "results/study.md").read_text())
    assert len(differences) >= 35
    assert set(differences) <= set(
        re.findall(r"[+-]\d+\.\d \[[+-]\d+\.\d, [+-]\d+\.\d\]", (ARCHIVE / "study.md").read_text().replace("*", ""))
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; pages that do not fit together fail it."""
    for needed in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(needed)
    out = tmp_path_factory.mktemp("site") / "site"
    call = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    result = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return out


def test_the_site_asks_no_other_host(site: Path) -> None:
    pages = [*site.rglob("*.html")]
    assert len(pages) > len(NEW)
    asked = {
        (page.name, tag)
        for page in pages
        for tag in re.findall(
            r"<(?:script|link|img|iframe|source|video)\b[^>]*(?:https?:)?//[\w.-]+[^>]*>", page.read_text()
        )
    }
    assert asked == set()
    styles = [style.read_text() for style in site.rglob("*.css")]
    assert [
        found for style in styles for found in re.findall(r"(?:url\(|@import )['\"]?(?:https?:)?//[^)]*", style)
    ] == []


def test_the_site_has_formulas_and_the_python_interface(site: Path) -> None:
    method = (site / "method.html").read_text()
    assert method.count('<svg class="math"') > 10
    assert "```" not in method
    assert "$`" not in method
    python = (site / "python.html").read_text()
    assert all(f'id="siamese_diffusion.{name}"' in python for name in ("diffusion.train.train", "job.run"))
    assert (site / "search/search_index.js").is_file()


@pytest.mark.browser
def test_the_search_works_from_a_disk(site: Path, browser: Browser) -> None:
    ask = site / "ask.html"
    ask.write_text('<script>location.replace("index.html?q=speckle")</script>')
    shown = browser(ask, "--virtual-time-budget=8000", "--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom")
    assert 'troubleshooting.html?h=" class="md-search-result__link"' in shown


def test_settings_of_the_site_are_for_a_disk() -> None:
    text = re.sub(r"!!python\S*", "", (ROOT / "mkdocs.yml").read_text())
    settings = yaml.safe_load(text)
    assert settings["use_directory_urls"] is False
    assert settings["theme"]["font"] is False
