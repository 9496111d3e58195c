"""``pixelloom push``: upload a model to the Hugging Face hub."""

from __future__ import annotations

from pixelloom.cli.console import say, say_json
from pixelloom.cli.options import Flag


def push(
    model: str,
    repository: str,
    /,
    *,
    private: Flag = False,
    revision: str | None = None,
    license: str | None = None,
    message: str = "Upload a Pixelloom model",
    json: Flag = False,
) -> None:
    """Upload a model to the Hugging Face hub: weights, config.json and the model card, as one commit.

    Needs a token with write access: set HF_TOKEN, or log in with `hf auth login`.

    Args:
        model: Run folder, model folder, or name of a run under runs/ or of a pretrained model.
        repository: USER/NAME; created if it does not exist.
        private: Create a private repository.
        revision: Branch to upload to, created if it does not exist; default: the main branch.
        license: License of the weights for the card, as the hub names it, such as cc-by-4.0.
        message: Message of the commit.
        json: Print one JSON object.
    """
    from pixelloom.hub.client import library
    from pixelloom.hub.reference import Reference
    from pixelloom.models.registry import load_model
    from pixelloom.models.sharing import push_folder
    from pixelloom.runs.locate import find

    target = Reference.parse(repository)
    library()
    folder = find(model)
    address = push_folder(
        folder,
        load_model(folder),
        repository,
        private=private or None,
        revision=revision,
        message=message,
        license_=license,
    )
    name = f"hf:{target.repo}@{revision or target.revision}" if revision or target.revision else f"hf:{target.repo}"
    if json:
        say_json({"model": name, "commit": address})
        return
    say(f"commit      {address}")
    say(f"model       {name}")
