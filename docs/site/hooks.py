"""What the site is made of besides the pages in docs/: documents of the top folder, and the notebook as a page.

Links of pages are those of the repository (``../CHANGELOG.md``), so that they lead somewhere on a repository host too;
here they are turned into links of the site.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
TOP = {"README.md": "index.md", "BUILD_NOTES.md": "BUILD_NOTES.md", "CHANGELOG.md": "CHANGELOG.md"}
BIBLIOGRAPHY = "diffjax/results/published/papers.bib"
TOP |= {"CONTRIBUTING.md": "CONTRIBUTING.md", BIBLIOGRAPHY: "papers.bib"}
"""Files outside of docs/ that the site has too, and what they are called there."""
NOTEBOOK = "tutorial.ipynb"
OWN = ("style.css", "iframe-worker.js")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the documents of the top folder, the notebook's page, style and script."""
    for name, place in TOP.items():
        files.append(File.generated(config, place, content=(ROOT / name).read_text()))
    notebook = json.loads((ROOT / "docs" / NOTEBOOK).read_text())
    files.append(File.generated(config, "tutorial.md", content="\n\n".join(cells(notebook))))
    for name in OWN:
        files.append(File.generated(config, name, abs_src_path=str(Path(__file__).with_name(name))))
    return files


def on_page_markdown(markdown: str, page: Page, **kwargs: Any) -> str:
    """Links of the repository as links of the site; the file of a program is its title; papers with their BibTeX."""
    if page.file.src_uri in TOP.values():
        markdown = re.sub(r"\]\(docs/([^)]*)\)", r"](\1)", markdown)
    for name, place in TOP.items():
        markdown = re.sub(rf"\]\((?:\.\./)*{re.escape(name)}(#[^)]*)?\)", rf"]({place}\1)", markdown)
    if page.file.src_uri == "papers.md":
        markdown += f"\n```bibtex\n{(ROOT / BIBLIOGRAPHY).read_text()}```\n"
    markdown = re.sub(r"^```python ([\w.]+)$", r'```python title="\1"', markdown, flags=re.MULTILINE)
    return re.sub(rf"\]\((docs/)?{re.escape(NOTEBOOK)}\)", "](tutorial.md)", markdown)


def cells(notebook: dict[str, Any]) -> Iterator[str]:
    """The cells of a notebook as Markdown: text as it is, code with what it printed and drew."""
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            yield source
            continue
        yield f"```python\n{source}\n```"
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                yield f"![{data['text/plain'][0]}](data:image/png;base64,{''.join(data['image/png']).strip()})"
            else:
                text = "".join(output.get("text") or data["text/plain"])
                yield f"```text\n{text.rstrip()}\n```"
