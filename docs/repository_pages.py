"""A hook of MkDocs: pages from outside docs/, and links as they are written for the repository."""

import os.path
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "ds_configs/README.md", "slurm/README.md")
_LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages under their own paths."""
    for path in PAGES:
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Has links lead to pages of the site; a file that is none keeps its name only.

    A target that does not exist stays as it is, for MkDocs to refuse.
    """
    here = page.file.src_uri
    folder = os.path.dirname(here if here in PAGES else f"docs/{here}")

    def site_link(link: re.Match[str]) -> str:
        text, target, anchor = link.groups()
        if "://" in target or target.startswith("mailto:"):
            return link[0]
        path = os.path.normpath(os.path.join(folder, target))
        uri = path.removeprefix("docs/")
        if (uri != path or path in PAGES) and files.get_file_from_path(uri):
            return f"[{text}]({os.path.relpath(uri, os.path.dirname(here) or '.')}{anchor or ''})"
        return text if (ROOT / path).exists() else link[0]

    return _LINK.sub(site_link, markdown)
