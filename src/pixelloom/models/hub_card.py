"""The YAML header of a model card, by which the Hugging Face hub shows and finds a model.

Source: https://huggingface.co/docs/hub/model-cards#model-card-metadata.
"""

from __future__ import annotations

import json
from typing import Any

import yaml

from pixelloom.hub.reference import Reference, is_reference
from pixelloom.models.family import GenerativeModel

_FENCE = "---\n"
# Named data sets on the hub, for the link from the card.
_DATASETS = {
    "mnist": "ylecun/mnist",
    "fashion-mnist": "zalando-datasets/fashion_mnist",
    "cifar10": "uoft-cs/cifar10",
    "binarized-mnist": "ylecun/mnist",
    "colored-mnist": "ylecun/mnist",
    "sevens-and-eights": "ylecun/mnist",
}


def hub_card(model: GenerativeModel, card: str, license_: str | None = None) -> str:
    """A model card with a YAML header; entries that the card already has are kept.

    Args:
        model: the model.
        card: Markdown.
        license_: identifier of the license on the hub, as in ``cc-by-4.0``; None states none.
    """
    own, text = _divided(card)
    meta = _metadata(model) | ({"license": license_} if license_ else {}) | own
    return f"{_FENCE}{yaml.safe_dump(meta, sort_keys=False, allow_unicode=True)}{_FENCE}\n{text.lstrip()}"


def _divided(card: str) -> tuple[dict[str, Any], str]:
    """The YAML header of a card and its text."""
    if card.startswith(_FENCE) and (end := card.find("\n" + _FENCE, len(_FENCE))) > 0:
        try:
            found = yaml.safe_load(card[len(_FENCE) : end])
        except yaml.YAMLError:
            return {}, card
        if isinstance(found, dict):
            return found, card[end + 1 + len(_FENCE) :]
    return {}, card


def _metadata(model: GenerativeModel) -> dict[str, Any]:
    """Library, task, tags, data and validation metrics of a model."""
    about = model.description
    record = about.training
    tags = ["pixelloom", about.family, about.network, "image-generation"]
    tags += ["class-conditional"] if about.classes else []
    tags += ["likelihood", "autoregressive"] if "likelihood" in model.can else []
    meta: dict[str, Any] = {
        "library_name": "pixelloom",
        "pipeline_tag": "unconditional-image-generation",
        "tags": list(dict.fromkeys(tags)),
    }
    source = "" if record.data is None else record.data.source
    linked = Reference.parse(source, "dataset").repo if is_reference(source) else None
    if dataset := linked or _DATASETS.get(source):
        meta["datasets"] = [dataset]
    measured = record.validation
    if measured.metrics:
        name = source if dataset or not record.path else "own images"  # paths are not published
        meta["metrics"] = list(measured.metrics)
        results = {
            "task": {"type": "unconditional-image-generation"},
            "dataset": {"type": dataset or "images", "name": name or "images", "split": measured.split},
            "metrics": [{"type": key, "value": value} for key, value in measured.metrics.items()],
        }
        meta["model-index"] = [{"name": record.recipe or about.network, "results": [results]}]
    return dict(json.loads(json.dumps(meta)))  # plain types alone
