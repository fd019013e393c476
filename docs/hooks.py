"""Pages of the site that are written elsewhere in the repository."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PAGES = {
    "deploy.md": "deploy/README.md",
    "measured.md": "benchmarks/RESULTS.md",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add them."""
    root = Path(config.config_file_path).parent
    for page, source in PAGES.items():
        text = (root / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=relinked(text, Path(source).parent)))
    return files


def relinked(text: str, folder: Path) -> str:
    """`text` of a file in `folder`, its links to files pointing to the site's pages.

    A link to a file that is no page becomes its name.
    """
    pages = {source: page for page, source in PAGES.items()}

    def relink(link: re.Match[str]) -> str:
        target, _, anchor = link["target"].partition("#")
        page = pages.get((folder / target).as_posix())
        if page is None:
            return link["text"]
        return f"[{link['text']}]({page}{'#' if anchor else ''}{anchor})"

    return re.sub(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<target>(?!\w+:|#)[^)\s]+)\)", relink, text)
