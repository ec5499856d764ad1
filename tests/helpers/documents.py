"""The repository's Markdown documents: their blocks, what a block needs, inline code, links, headings.

Convention: the info string of a block is its language and, where a bare machine cannot run it, what it needs:
`sh needs=cluster`. Blocks without a need run in tests/integration/test_documents.py.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = (".github", "cluster", "jobs", "musc_ray", "tests")

NEEDS = {
    "checkout": "a clone of the repository and make; what it calls has tests of its own, or is the test suite",
    "network": "PyPI or a model hub",
    "cluster": "a Ray cluster; those of cluster/README.md run in tests/integration/test_cluster.py",
    "cloud": "Kubernetes, AWS, Slurm or a container registry",
    "dataset": "a dataset or weights under a licence of their own",
    "engine": "Spark, Trino, or a REST catalog that serves S3",
}
LANGUAGES = ("sh", "python", "yaml", "sql", "text", "bibtex")

BLOCK = re.compile(r"^```([^\n`]*)\n(.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^()\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, what it needs (None: nothing), its text."""

    language: str
    need: str | None
    text: str

    @property
    def lines(self) -> list[str]:
        """Commands of a block of sh: one a line, continued lines joined, without comments."""
        joined = self.text.replace("\\\n", " ").splitlines()
        return [line.strip() for line in joined if line.strip() and not line.lstrip().startswith("#")]


@dataclass(frozen=True)
class Document:
    """A Markdown file of the repository."""

    path: Path

    @property
    def name(self) -> str:
        """Path below the root of the repository."""
        return self.path.relative_to(ROOT).as_posix()

    @cached_property
    def text(self) -> str:
        """The whole file."""
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def blocks(self) -> list[Block]:
        """Fenced blocks in order.

        Raises:
            AssertionError: a block without a language, or an info string that is not `LANGUAGE` or `LANGUAGE needs=X`.
        """
        found = []
        for info, text in BLOCK.findall(self.text):
            match = re.fullmatch(r"(\w+)(?: needs=(\w+))?", info.strip())
            assert match, f"{self.name}: a block begins with ```{info}: write ```LANGUAGE or ```LANGUAGE needs=WHAT"
            found.append(Block(match[1], match[2], text))
        return found

    @property
    def prose(self) -> str:
        """The text without its blocks."""
        return BLOCK.sub("", self.text)

    @property
    def inline(self) -> list[str]:
        """Inline code of the prose."""
        return INLINE.findall(self.prose)

    @property
    def links(self) -> list[str]:
        """Targets of links to other documents, files and headings of this repository."""
        found = LINK.findall(INLINE.sub("", self.prose))
        return [target for target in found if not target.startswith(("http://", "https://"))]

    @property
    def anchors(self) -> set[str]:
        """What `#...` may name: headings as GitHub writes them."""
        plain = (re.sub(r"[^\w\- ]", "", heading.lower()).strip() for heading in HEADING.findall(self.prose))
        return {heading.replace(" ", "-") for heading in plain}

    def commands(self, word: str) -> list[str]:
        """Commands that begin with `word`, of all blocks and of inline code."""
        lines = [line for block in self.blocks if block.language == "sh" for line in block.lines]
        return [line for line in [*lines, *self.inline] if line.startswith(f"{word} ")]


def documents() -> list[Document]:
    """Every Markdown file of the repository, README.md first: what it writes is what others read."""
    found = sorted(ROOT.glob("*.md")) + [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.md"))]
    return sorted((Document(path) for path in found), key=lambda document: document.name != "README.md")
