"""Model hubs read a card's front matter, and a reader finds the hyperparameters in it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from support.clip_recipes import clip_recipe_tree
from support.model_kinds import KINDS

from training.export.bundle import export_run
from training.export.front_matter import front_matter, hyperparameters
from training.export.model_card import confusion_table
from training.recipe import Recipe, parse_recipe

hub = pytest.importorskip("huggingface_hub")


def table_of(recipe: Recipe) -> dict[str, str]:
    """Return the rows of the table of hyperparameters."""
    rows = [line.strip("| ").split(" | ", 1) for line in hyperparameters(recipe).splitlines() if line.startswith("| `")]
    return {key.strip("`"): value for key, value in rows}


def test_the_card_of_an_exported_run_is_read_by_the_hubs_parser(run: Path, films: Path, tmp_path: Path) -> None:
    bundle = export_run(run, tmp_path / "bundle")
    card = hub.ModelCard.load(bundle.path / "README.md")
    data = card.data
    assert (data.license, data.license_name) == ("other", "as-the-data")
    assert (data.library_name, data.pipeline_tag) == ("streamclf", "video-classification")
    assert data.datasets == [films.name]
    assert {"accuracy", "balanced_accuracy"} <= set(data.metrics)
    assert data.model_name == "ways"
    values = {result.metric_name: result.metric_value for result in data.eval_results}
    assert values["top-1"] == bundle.spec.metrics["top1"]
    assert {result.dataset_split for result in data.eval_results} == {"validation"}
    assert card.text.lstrip().startswith("# ways 1\n")
    assert "\n## Hyperparameters\n" in card.text
    assert "| `optimiser.batch` | 12 |" in card.text
    assert str(films) not in card.content, "a path of this machine"


@pytest.mark.parametrize(
    ("licence", "head"),
    [
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("CC BY 4.0, as MedMNIST", {"license": "cc-by-4.0"}),
        ("mit", {"license": "mit"}),
        ("research only", {"license": "other", "license_name": "research-only"}),
        ("MIT (code); films public", {"license": "other", "license_name": "mit-code-films-public"}),
        ("許可", {"license": "unknown"}),
    ],
)  # fmt: skip
def test_licences_have_the_hubs_names(licence: str, head: dict[str, str]) -> None:
    found = yaml.safe_load(front_matter(name="x", licence=licence).split("---\n")[1])
    assert {key: value for key, value in found.items() if key.startswith("license")} == head
    assert "model-index" not in found, "the hub refuses an index without results"


def test_odd_text_stays_one_value() -> None:
    datasets, data = ["a: b\n---\n# c", "…"], "x\n---\ny: ["
    text = front_matter(name="x", licence="mit", datasets=datasets, data=data, figures={"top1": 1})
    card = hub.ModelCard(text + "# x\n")
    assert card.data.datasets == ["a-b-c", "unknown"]
    assert card.data.eval_results[0].dataset_name == "x --- y: ["


def test_keys_without_an_effect_and_paths_are_left_out(films: Path) -> None:
    tree = clip_recipe_tree(films)
    tree["model"] = KINDS["hybrid"] | {"weights": "/home/me/secret/net.safetensors"}
    strong = table_of(parse_recipe(tree, where="test"))
    assert strong["model.dim"] == "32"
    assert strong["model.weights"] == "net.safetensors"
    assert strong["optimiser.learning_rate"] == "0.002"
    assert strong["augment.flip"] == "True"
    assert not [key for key in strong if key.startswith(("data", "threads", "accelerator", "augment.mixup"))]
    tree["model"] = KINDS["hybrid-published"]
    published = table_of(parse_recipe(tree, where="test"))
    assert not {"model.dim", "model.heads", "model.layers", "model.drop_path"} & set(published)


def test_a_label_stays_in_its_cell_of_a_table() -> None:
    table = confusion_table(["a|b", "c\nd"], [[1, 2], [3, 4]])
    assert table == ["| truth \\ predicted | a\\|b | c d |", "|---|---|---|", "| a\\|b | 1 | 2 |", "| c d | 3 | 4 |"]
