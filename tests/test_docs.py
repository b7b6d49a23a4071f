"""The documentation: no dead link, no command or option that mmser does not have, and a site that builds."""

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from docs_pages import DOCS, PAGES, ROOT, calls, name_of, parsed, sessions

from mmser.cli import main

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_OUTWARD = re.compile(r"\]\((http[^)]*)\)|(https?:[^\s)>`\"']*[^\s)>`\"'.,;:])")
"""An address: a link's target, or one in running text."""

_ADDRESS = re.compile(r"https://[a-z0-9-]+(\.[a-z0-9-]+)+(/([\w./~#=-]*[\w/])?)?")
_ARXIV = re.compile(r"arxiv(?:\.org/abs/|[: ]+)([\w./-]*[\w])", re.IGNORECASE)
_HTTP_ALONE = ("http://emodb.bilderbar.info/", "http://kahlan.eps.surrey.ac.uk/savee/")
"""Sites that everyone links to without TLS."""

_FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_OPTION = re.compile(r"--[a-z][a-z0-9-]*")

_FETCHED = re.compile(r'<(?:script|img|iframe)[^>]+src="([^"]+)"|<link rel="(?!canonical|next|prev)[^>]+href="([^"]+)"')
"""What a browser fetches of a page by itself."""

_OTHER_PROGRAM = re.compile(r"(python|pip|uv|mfa|conda|git|make|mkdocs) ")


def prose(page: Path) -> str:
    return _FENCED.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in _HEADING.findall(prose(page))
    }


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for link in _LINK.findall(prose(page)):
        if re.match(r"https?://[\w.-]+", link):  # the network is not there in tests
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), f"{name_of(page)}: dead link {link}"
        if DOCS in page.parents:
            assert DOCS in target.parents, f"{name_of(page)}: {link} is no page of the site"
        if anchor:
            assert anchor in anchors(target), f"{name_of(page)}: {link}: no such heading"


def outward_faults(text: str) -> list[str]:
    """Addresses and arXiv ids of a text that cannot be right; whether they are is for someone with a network."""
    links = [target or bare for target, bare in _OUTWARD.findall(text)]
    faults = [link for link in links if not _ADDRESS.fullmatch(link) and link not in _HTTP_ALONE]
    ids = _ARXIV.findall(text)
    return faults + [arxiv for arxiv in ids if not re.fullmatch(r"\d\d(0[1-9]|1[0-2])\.\d{4,5}(v\d)?", arxiv)]


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=name_of)
def test_links_outward_are_well_formed(page: Path) -> None:
    assert not outward_faults(prose(page))


@pytest.mark.parametrize(
    "text",
    [
        "[x](http://example.org/x)",
        "[x](https://github)",
        "[x](https://github.com/a/b.)",
        "[x](https:/github.com/a/b)",
        "[x](https://github.com/a b)",
        "[x](https//github.com/a/b)",
        "arXiv 2207.046",
        "arXiv 2213.04697",
        "arXiv:x207.04697",
    ],
)
def test_a_link_outward_that_is_not_is_noticed(text: str) -> None:
    assert outward_faults(text)


def command_of(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that words after ``mmser`` name, and its arguments."""
    command: click.Command = main
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"mmser has no command {words[0]!r}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


def check_call(call: list[str]) -> None:
    """Whether mmser takes the arguments, by click's own parser; nothing is run."""
    command, words = command_of(call[1:])
    if words not in (["--help"], ["--version"]):
        parsed(command, words)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_that_are_shown_exist(page: Path) -> None:
    for line, _ in sessions(page):
        for call in calls(line):
            if call[0] == "mmser":
                try:
                    check_call(call)
                except (click.UsageError, AssertionError) as error:
                    pytest.fail(f"{name_of(page)}: {line!r}: {error}")
            elif call[0] == "make":
                assert re.search(rf"^{call[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line
            elif call[:2] == ["python", "-m"] and call[2].startswith("benchmarks."):
                assert (ROOT / f"{call[2].replace('.', '/')}.py").is_file(), line


def options(command: click.Command = main) -> set[str]:
    """The options of a command and of those below it."""
    own = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return own.union(*map(options, command.commands.values())) if isinstance(command, click.Group) else own


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_and_options_in_prose_exist(page: Path) -> None:
    for code in _CODE.findall(prose(page)):
        asked = set(_OPTION.findall(code)) - {"--help"}
        if _OTHER_PROGRAM.match(code):
            continue
        if code.startswith("mmser ") and code.split()[1].islower():
            command, _ = command_of([word for word in code.split()[1:] if not word.isupper()])
            asked -= options(command)
        else:
            asked -= options() | of_benchmarks()
        assert not asked, f"{name_of(page)}: `{code}`: no option {', '.join(sorted(asked))}"


def of_benchmarks() -> set[str]:
    return {option for path in (ROOT / "benchmarks").glob("*.py") for option in _OPTION.findall(path.read_text())}


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        ("mmser trian-head cache/x", "no command 'trian-head'"),
        ("mmser train-head cache/x --fold session", "No such option"),
        ("mmser train-head --folds session", "Missing parameter: cache_path"),
        ("mmser extract m.csv --cache c --align mfaa", "is not one of"),
        ("mmser cache info a b c", "unexpected extra argument"),
    ],
)
def test_what_does_not_exist_is_noticed(call: str, fault: str) -> None:
    with pytest.raises((click.UsageError, AssertionError), match=fault):
        check_call(call.split())


def test_the_site_builds_and_asks_no_one_else(tmp_path: Path) -> None:
    """Strictly: a dead link, a dead anchor or a page that nothing leads to is an error."""
    pytest.importorskip("material")
    # not --quiet: what is not logged is not counted by --strict
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert {page.relative_to(DOCS).with_suffix(".html").as_posix() for page in DOCS.rglob("*.md")} <= {
        page.relative_to(tmp_path).as_posix() for page in pages
    }
    for page in pages:
        text = page.read_text(encoding="utf-8")
        fetched = [source for pair in _FETCHED.findall(text) for source in pair]
        assert not [source for source in fetched if re.match(r"(https?:)?//", source)], page
    commands = (tmp_path / "commands.html").read_text(encoding="utf-8")
    assert "--batch-seconds" in commands
    assert "<code>mmser doctor iemocap.csv\nmmser doctor" in commands  # examples keep their lines
    assert "A folder of &lt;utterance_id&gt;.npy" in commands
    for name in main.commands:
        assert re.search(rf'<h3 id="mmser-{name}"', commands), name
