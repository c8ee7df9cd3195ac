"""Check the models of each stream: their hops, the labels of their actions, and the number of views."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from engines.bundle import ModelSpec
from streamclf.config.actions import SCENE_LOST, UNKNOWN
from streamclf.config.service import ServiceConfig
from streamclf.config.views import MODEL_KEY, StreamView, actions_of_model
from streamclf.errors import ConfigError
from streamclf.events.views import MAX_VIEWS
from streamclf.net.names import describe_unknown

Specs = Mapping[str, ModelSpec]
"""The models by name; "" is the name of the top-level `model`."""


def check_models(config: ServiceConfig, specs: Specs) -> None:
    """Raise `ConfigError` for the first stream or action that does not fit its models."""
    below = []
    for name, stream in config.streams.items():
        key = f"streams.{name}"
        views = config.views_of(name)
        below.append(max(view.actions.unknown_below for view in views))
        own = {model: specs[model] for view in views for model in view.models}
        for view in views:
            _check_view(key, view, {model: specs[model] for model in view.models}, stream.actions)
        _check_labels(f"{key}.actions", stream.actions, own, specs, below[-1])
        if (count := sum(len(view.models) for view in views)) > MAX_VIEWS:
            raise ConfigError(f"{key}: {count} pairs of a region and a model: at most {MAX_VIEWS}; leave some out")
    _check_labels("actions", config.actions, specs, specs, max(below))


def _check_view(key: str, view: StreamView, specs: Specs, own_actions: Collection[str]) -> None:
    """Check the hop of one view, and that each of its actions means one model."""
    for model, spec in specs.items():
        if view.settings.hop > spec.chunks:
            most = f"at most {spec.chunks} (chunks in a window of {spec.id})"
            raise ConfigError(f"{key}.hop={view.settings.hop}: {most}")
        if UNKNOWN in spec.labels and view.actions.unknown_below:
            raise ConfigError(f"unknown_below: {spec.id} has a label `{UNKNOWN}` of its own; leave unknown_below out")
        try:
            actions = actions_of_model(view.actions, model, spec.find_label).with_thresholds(spec.thresholds)
        except ValueError as error:
            label = str(error).partition(": ")[0]
            raise ConfigError(f"{_place(key, label, own_actions)}.{error}") from None
        if SCENE_LOST in actions.labels and (SCENE_LOST in spec.labels or spec.chunks < 2):
            fault = "a label of this name" if SCENE_LOST in spec.labels else "windows of one chunk, and two are needed"
            raise ConfigError(
                f"{_place(key, SCENE_LOST, own_actions)}.{SCENE_LOST}: {spec.id} has {fault}; leave it out"
            )
        for label, action in actions.labels.items():
            if action.hold_s and spec.chunks < 2:
                raise ConfigError(
                    f"{_place(key, label, own_actions)}.{label}.hold_s={action.hold_s:g}: {spec.id} has windows of one "
                    "chunk, a hold needs at least two; leave hold_s out"
                )
    named = view.actions.labels.keys()
    for label in named:
        owners = [_full_name(model, label) for model, spec in specs.items() if spec.find_label(label)]
        if len(owners) > 1 and not all(owner in named for owner in owners):
            raise ConfigError(
                f"{_place(key, label, own_actions)}.{label}: {len(owners)} models of {key} have this label; write "
                f"{' or '.join(owners)}"
            )


def _check_labels(key: str, labels: Iterable[str], specs: Specs, all_specs: Specs, unknown_below: float) -> None:
    """Check that each of `labels` is a label of one of `specs`, or MODEL/LABEL."""
    for label in labels:
        if any(spec.find_label(label) for spec in specs.values()):
            continue
        model, slash, name = label.partition("/")
        known = {each or MODEL_KEY: spec for each, spec in specs.items()}
        if slash and model in known:
            name, found, owner = name, known[model].find_label(name), f"{model} ({known[model].id})"
            choices: Iterable[str] = known[model].labels
        elif slash and model in {each or MODEL_KEY for each in all_specs}:
            raise ConfigError(f"{key}.{label}: the stream has no model {model}; its models are {', '.join(known)}")
        else:
            name, found = label, None
            owner = next(iter(specs.values())).id if len(specs) == 1 else f"the set of models {', '.join(known)}"
            choices = [each for spec in specs.values() for each in spec.labels]
        if name == UNKNOWN and unknown_below == 0 and not found:
            raise ConfigError(f"{key}.{label}: give unknown_below, too, like 0.4: the best probability that is unknown")
        if not found and name not in (SCENE_LOST, UNKNOWN):
            raise ConfigError(f"{key}.{label}: {describe_unknown('label', name, list(choices), owner)}")


def _place(key: str, label: str, own_actions: Collection[str]) -> str:
    return f"{key}.actions" if label in own_actions else "actions"


def _full_name(model: str, label: str) -> str:
    return f"{model or MODEL_KEY}/{label}"
