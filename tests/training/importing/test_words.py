"""A bundle with labels in words gives the similarities of transformers for the same frames and texts."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

pytest.importorskip("transformers")
pytest.importorskip("tokenizers")

from support.checkpoints import change_json, onnx_features, onnx_logits
from support.word_checkpoints import FRAMES, KINDS, SIDE, own_logits, random_window, save_words, similarities

from engines.activation import softmax
from engines.opening import open_engine
from training.__main__ import app
from training.cli.list_options import repeat_names
from training.data.shape import Shape
from training.errors import FolderError, RecipeError
from training.importing import import_folder
from training.importing.checkpoint import read_state
from training.importing.processor import read_processor
from training.importing.words.card import write_card
from training.importing.words.config import read_words_config
from training.importing.words.importing import WordsOptions, import_words
from training.importing.words.model import WordsModel, load_words_model
from training.importing.words.prompts import check_prompts
from training.importing.words.tokenizer import TextTokenizer

LABELS = ["A person, lying on the floor!", "an empty room", "a dog"]
TEMPLATES = ["a photo of {}", "{} in a film"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("words")
    saved = {}

    def get(kind):
        if kind not in saved:
            saved[kind] = save_words(root / kind, kind)
        return saved[kind]

    return get


@pytest.fixture(scope="module")
def bundles(folders, tmp_path_factory):
    root = tmp_path_factory.mktemp("bundles")
    made = {}

    def get(kind):
        if kind not in made:
            options = WordsOptions(templates=TEMPLATES, fps=5, chunks=FRAMES)
            made[kind] = import_words(folders(kind), root / kind / "My labels", LABELS, options)
        return made[kind]

    return get


@pytest.mark.parametrize("kind", KINDS)
def test_similarities_equal_transformers(kind, folders, bundles):
    folder, bundle = folders(kind), bundles(kind)
    spec = bundle.spec
    assert (spec.name, spec.labels, spec.fps, spec.chunks) == ("my-labels", tuple(LABELS), 5, FRAMES)
    window = random_window()
    texts = [[template.replace("{}", label) for template in TEMPLATES] for label in LABELS]
    expected = similarities(folder, kind, window, texts)
    assert np.ptp(expected) > 0.05
    logits = onnx_logits(bundle, onnx_features(bundle, window))
    assert np.abs(logits - expected).max() < 1e-4
    pytest.importorskip("openvino")
    engine = open_engine(bundle, backend="openvino", precision="fp32")
    slots = np.arange(FRAMES, dtype=np.int32)
    engine.encode(window[:, None], slots)
    served = engine.classify(slots[None])
    engine.close()
    assert np.abs(served - softmax(expected[None])).max() < 1e-4


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "videoprism"])
def test_the_logits_of_one_frame_are_those_of_transformers(kind, folders):
    folder = folders(kind)
    config = read_words_config(folder)
    processor = read_processor(folder, (SIDE, SIDE))
    tokens = TextTokenizer(folder, config).encode(check_prompts(LABELS))
    frame = random_window(1)[0]
    with torch.inference_mode():
        model = load_words_model(folder, config, processor, tokens).model
        logits = model(torch.from_numpy(frame)[None, None, None])[0].numpy()
    assert np.abs(logits - own_logits(folder, kind, frame, LABELS)).max() < 1e-4


@pytest.fixture(scope="module")
def first(bundles):
    """Import CLIP. Tests must not change the bundle."""
    return bundles("clip")


def test_other_labels_reuse_the_encoder(folders, first, tmp_path):
    other = import_words(
        folders("clip"), tmp_path / "other", ["rain", "snow", "sun"], WordsOptions(chunks=2, encoder=first.path)
    )
    again = import_words(folders("clip"), tmp_path / "other", ["day", "night"], WordsOptions(chunks=2, fps=5))
    assert first.encoder_path.read_bytes() == again.encoder_path.read_bytes()
    assert other.spec.files["encoder.onnx"] == again.spec.files["encoder.onnx"] == first.spec.files["encoder.onnx"]
    assert (other.spec.labels, again.spec.labels, again.spec.fps) == (("rain", "snow", "sun"), ("day", "night"), 5)
    assert again.spec.files["head.onnx"] != first.spec.files["head.onnx"]


def test_the_encoder_of_another_checkpoint_is_refused(folders, first, tmp_path):
    with pytest.raises(FolderError, match=r"--encoder .*My labels: not a bundle of this checkpoint"):
        import_words(folders("siglip"), tmp_path / "bundle", LABELS, WordsOptions(chunks=2, encoder=first.path))
    assert not (tmp_path / "bundle").exists()


def test_the_model_card_says_how_probabilities_are_made(folders, first):
    card = (first.path / "README.md").read_text(encoding="utf-8")
    assert "- an empty room" in card
    assert "sum to 1" in card
    assert "sigmoid" not in card
    config = read_words_config(folders("siglip"))
    words = WordsModel(model=None, temperature=0.1, bias=-3.0)
    shape = Shape(fps=2, frames_per_chunk=1, chunks=8, height=SIDE, width=SIDE)
    card = write_card(config, check_prompts(LABELS), words, shape, (), folder="siglip")
    assert "logit = cosine / 0.1 -3" in card
    assert "sigmoid of the logit" in card


def test_siglip_has_independent_probabilities(folders, bundles, tmp_path):
    """A window of one frame has the sigmoid of transformers' logits; other labels use the same encoder."""
    folder, compared = folders("siglip"), bundles("siglip")
    options = WordsOptions(fps=5, chunks=1, independent=True, encoder=compared.path)
    bundle = import_words(folder, tmp_path / "words", LABELS, options)
    assert (bundle.spec.activation, compared.spec.activation) == ("sigmoid", "softmax")
    assert bundle.spec.files["encoder.onnx"] == compared.spec.files["encoder.onnx"]
    card = (bundle.path / "README.md").read_text(encoding="utf-8")
    assert "labels are independent" in card
    assert "sum to 1" not in card
    frame = random_window(1)[:1]
    engine = open_engine(bundle, backend="onnxruntime", precision="fp32")
    engine.encode(frame[:, None], np.zeros(1, np.int32))
    served = engine.classify(np.zeros((1, 1), np.int32))[0]
    engine.close()
    expected = 1 / (1 + np.exp(-own_logits(folder, "siglip", frame[0], LABELS)))
    assert np.abs(served - expected).max() < 1e-4
    single = import_words(folder, tmp_path / "one", ["a cat"], WordsOptions(chunks=1, fps=5, independent=True))
    assert single.spec.labels == ("a cat",)


def test_independent_probabilities_of_clip_are_refused(folders, tmp_path):
    with pytest.raises(FolderError, match="--independent: model_type=clip was trained to compare texts"):
        import_words(folders("clip"), tmp_path / "words", LABELS, WordsOptions(independent=True))


@pytest.mark.parametrize(
    ("labels", "templates", "message"),
    [
        (["one"], [], "1 given, must be 2 to 1000"),
        ([str(number) for number in range(1001)], [], "1001 given, must be 2 to 1000"),
        (["a cat", "a  cat "], [], "'a cat' is given more than once"),
        (["a cat", " "], [], "has 0 characters"),
        (["a cat", "a" * 257], [], "has 257 characters"),
        (["a cat", "a\x1bdog"], [], "control characters"),
        (LABELS, ["a photo"], "must contain {} once"),
        (LABELS, ["{} and {}"], "must contain {} once"),
        (LABELS, ["a {}", "a {}"], "'a {}' is given more than once"),
    ],
)
def test_wrong_labels_are_refused(labels, templates, message):
    with pytest.raises(RecipeError, match=re.escape(message)):
        check_prompts(labels, templates)


@pytest.mark.parametrize(
    ("kind", "labels", "message"),
    [
        (
            "clip",
            ["a cat", "a very long text that does not fit into the context of the model"],
            "the model reads at most",
        ),
        ("clip", ["a cat", "A CAT"], "'a cat' and 'A CAT' are the same text"),
        ("clip", ["a cat", "a cat<|endoftext|>"], "a mark of the tokenizer"),
        ("clip", ["a cat", "a 猫"], "has a character that the tokenizer does not know"),
        ("siglip", ["a cat", "a cat."], "'a cat' and 'a cat.' are the same text"),
        ("siglip", ["a cat", "..."], "finds no word in it"),
    ],
)
def test_labels_that_a_tokenizer_cannot_read_are_refused_by_name(kind, labels, message, folders, tmp_path):
    with pytest.raises(FolderError, match=re.escape(message)) as caught:
        import_words(folders(kind), tmp_path / "bundle", labels)
    assert "--labels" in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "file", "changes", "message"),
    [
        ("clip", "tokenizer.json", None, "tokenizer.json: missing, and labels in words need the model's tokenizer"),
        ("clip", "tokenizer.json", {"model": 3}, "tokenizer.json: not a tokenizer"),
        ("clip", "preprocessor_config.json", None, "has no processor"),
        ("clip", "config.json", {"model_type": "clip_vision_model"}, "has no text tower; labels in words need"),
        ("clip", "config.json", {"model_type": "vivit"}, "model_type='vivit' has no text tower"),
        ("clip", "config.json", {"model_type": "bert"}, "model_type='bert' is not known"),
        ("clip", "config.json", {"architectures": ["CLIPForImageClassification"]}, "has no text tower or another head"),
        ("clip", "config.json", {"text_config": 3}, "text_config must be a JSON object"),
        ("clip", "config.json", {"projection_dim": 16}, "belong to different models"),
        ("clip", "model.safetensors", None, "model.safetensors: missing"),
        ("siglip", "tokenizer_config.json", {"pad_token": "<gone>"}, "pad_token='<gone>': not a token"),
    ],
)
def test_a_folder_that_cannot_be_imported_is_refused(kind, file, changes, message, folders, tmp_path):
    folder = tmp_path / "bad"
    shutil.copytree(folders(kind), folder)
    if changes is None:
        (folder / file).unlink()
    else:
        change_json(folder / file, **changes)
    with pytest.raises(FolderError, match=re.escape(message)):
        import_words(folder, tmp_path / "bundle", LABELS)
    assert not (tmp_path / "bundle").exists()


def test_weights_without_a_text_tower_are_refused(folders, tmp_path):
    folder = tmp_path / "bad"
    shutil.copytree(folders("clip"), folder)
    state = load_file(folder / "model.safetensors")
    save_file({name: t for name, t in state.items() if "text" not in name}, folder / "model.safetensors")
    with pytest.raises(FolderError, match="has no text tower"):
        import_words(folder, tmp_path / "bundle", LABELS)


def test_older_checkpoints_with_counted_positions_are_read(folders, tmp_path):
    folder = tmp_path / "old"
    shutil.copytree(folders("clip"), folder)
    state = load_file(folder / "model.safetensors")
    state["text_model.embeddings.position_ids"] = torch.arange(48)[None]
    save_file(state, folder / "model.safetensors")
    assert set(read_state(folder)) == set(state) - {"text_model.embeddings.position_ids"}


def test_a_folder_with_a_text_tower_needs_labels(folders, tmp_path):
    with pytest.raises(FolderError, match="this model has no classifier: give --labels in words"):
        import_folder(folders("clip"), tmp_path / "bundle")


def test_the_window_of_videoprism(folders, tmp_path):
    with pytest.raises(FolderError, match=r"num_frames=2, but the model reads 4.*--interpolate-positions"):
        import_words(folders("videoprism"), tmp_path / "bundle", LABELS, WordsOptions(chunks=2))
    with pytest.raises(FolderError, match="--interpolate-positions is for VideoPrism alone"):
        import_words(folders("clip"), tmp_path / "bundle", LABELS, WordsOptions(interpolate=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fps": 0.0}, "--fps 0: must be more than 0"),
        ({"fps": float("nan")}, "--fps nan: must be more than 0"),
        ({"chunks": 0}, "--chunks 0: must be 1 to 1024"),
        ({"temperature": -1.0}, "--temperature -1: must be more than"),
    ],
)
def test_wrong_options_are_refused(options, message, folders, tmp_path):
    with pytest.raises(RecipeError, match=message):
        import_words(folders("clip"), tmp_path / "bundle", LABELS, WordsOptions(**options))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("F --labels a b -o out", "F --labels a --labels b -o out"),
        ("--labels=-a b --template x y F", "--labels=-a --labels b --template x --template y --template F"),
        ("F --fps 2 --labels a --labels b", "F --fps 2 --labels a --labels b"),
        ("F -o out", "F -o out"),
    ],
)
def test_list_options_take_several_values(given, expected):
    assert repeat_names(given.split()) == expected.split()


def test_the_command_line(folders, tmp_path, monkeypatch):
    given = []

    def import_words_instead(folder, output, labels, options):
        given.append((labels, options))
        raise RecipeError("stop here")

    monkeypatch.setattr("training.importing.words.importing.import_words", import_words_instead)
    words = ["import-hf", str(folders("clip")), "--labels", "a cat", "a dog", "--template", "a {}", "the {}"]
    result = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "out"), "--chunks", "4"])
    assert (result.exit_code, result.stderr) == (2, "training: stop here\n")
    ((labels, options),) = given
    assert (labels, options.templates, options.chunks) == (["a cat", "a dog"], ["a {}", "the {}"], 4)
    alone = CliRunner().invoke(app, ["import-hf", str(folders("clip")), "-o", str(tmp_path / "out"), "--chunks", "4"])
    assert (alone.exit_code, "--chunks: only with --labels" in alone.stderr) == (2, True)
