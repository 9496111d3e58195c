"""The real client of the Hugging Face hub against a server on loopback: round trips, what is fetched, and faults."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

hub_client = pytest.importorskip("huggingface_hub")

from huggingface_hub import constants  # noqa: E402

import pixelloom as pl  # noqa: E402
from commands import Command, caller  # noqa: E402
from fake_hub import TOKEN, Hub, serving  # noqa: E402
from pixelloom.core.errors import ModelError, UsageError  # noqa: E402
from pixelloom.hub.reference import Reference  # noqa: E402
from pixelloom.models.gan import GANModel  # noqa: E402
from pixelloom.models.pixel import PixelModel  # noqa: E402
from pixelloom.models.training_record import ValidationRecord  # noqa: E402
from small_models import flat, save_run  # noqa: E402

SPEC = pl.ImageSpec(1, 8, 8, 17)
NAMES = {"model.safetensors", "config.json", "README.md"}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.chdir(tmp_path)
    for name in ("HF_HUB_OFFLINE", "PIXELLOOM_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its protocol has servers of its own
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with serving() as found:
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        yield found


@pytest.fixture
def run(hub: Hub, capsys: pytest.CaptureFixture[str]) -> Command:
    return caller(capsys)


def lively(metrics: dict[str, float] | None = None) -> PixelModel:
    """Random weights, and a training record."""
    model = flat(SPEC, {"source": "mnist"})
    for parameter in model.network.parameters():
        torch.nn.init.normal_(parameter, 0, 0.5)
    if metrics:
        training = model.description.training.model_copy(update={"validation": ValidationRecord(metrics=metrics, n=10)})
        model.description = model.description.model_copy(update={"training": training})
    return model


def stored(hub: Hub, name: str = "user/small", revision: str = "main") -> dict[str, bytes]:
    repo = hub.repos["model", name]
    return repo.commits[repo.branches[revision]]


def put(hub: Hub, tmp_path: Path, name: str = "user/small", **extra: bytes) -> PixelModel:
    """A model on the hub, without the client."""
    model = lively()
    model.save_pretrained(tmp_path / "made")
    files = {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}
    hub.repo(name, files | {key.replace("__", "."): value for key, value in extra.items()})
    return model


def same(a: Any, b: Any) -> bool:
    first, second = a.network.state_dict(), b.network.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


# ---------------------------------------------------------------- round trips


def test_a_model_that_is_pushed_and_loaded_has_the_same_bits(hub: Hub) -> None:
    model = lively()
    address = model.push_to_hub("user/small", private=True, license="cc-by-4.0")
    assert address == f"{hub.url}/user/small/commit/{hub.repos['model', 'user/small'].branches['main']}"
    assert hub.repos["model", "user/small"].private
    assert set(stored(hub)) - {".gitattributes"} == NAMES
    for again in (
        pl.load("hf:user/small"),
        PixelModel.from_pretrained("user/small"),
        PixelModel.from_pretrained("hf:user/small", revision="main", cache_dir="elsewhere"),
    ):
        assert same(again, model)
        assert again.description == model.description
        assert torch.equal(again.sample(3, seed=1), model.sample(3, seed=1))
    assert Path("elsewhere/models--user--small").is_dir()


def test_save_pretrained_and_from_pretrained_on_a_folder(tmp_path: Path) -> None:
    model = lively()
    assert {path.name for path in model.save_pretrained(tmp_path / "m").iterdir()} == NAMES
    assert same(PixelModel.from_pretrained(tmp_path / "m"), model)
    with pytest.raises(ModelError, match=r"holds a PixelModel, not a GANModel"):
        GANModel.from_pretrained(tmp_path / "m")


def test_commands_push_and_pull(run: Command, hub: Hub) -> None:
    model = lively()
    save_run(model, Path("runs/small"))
    said = run("push", "small", "user/small", "--revision", "trial", "--json")
    assert said.code == 0, said.err
    commit = hub.repos["model", "user/small"].branches["trial"]
    assert json.loads(said.out) == {"model": "hf:user/small@trial", "commit": f"{hub.url}/user/small/commit/{commit}"}
    assert "model.safetensors" not in stored(hub)
    assert run("info", "hf:user/small@trial", "--json").code == 0
    refused = run("pull", "user/small@trial", "--out", "runs/small/model")
    assert (refused.code, "holds a model already" in refused.err) == (2, True)
    said = run("pull", "hf:user/small@trial", "--out", "there", "--json")
    assert json.loads(said.out)["commit"] == commit
    assert {path.name for path in Path("there").iterdir()} == NAMES
    assert not any(path.is_symlink() for path in Path("there").iterdir())
    assert same(pl.load("there"), model)
    Path("runs").rename("before")
    assert run("pull", "user/small@trial").code == 0
    assert same(pl.load("small"), model)
    assert run("sample", "hf:user/small@trial", "-n", "2", "--npy", "a.npy").code == 0


def test_front_matter_is_that_of_the_hub_and_a_card_of_ones_own_is_kept(run: Command, hub: Hub) -> None:
    lively({"bits/dim": 1.5}).save_pretrained("m", license="mit")
    meta = hub_client.ModelCard(Path("m/README.md").read_text()).data
    assert (meta.library_name, meta.license, meta.datasets) == ("pixelloom", "mit", ["ylecun/mnist"])
    assert {"pixelcnn", "likelihood"} <= set(meta.tags)
    (result,) = meta.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_split) == ("bits/dim", 1.5, "validation")
    Path("m/README.md").write_text("---\nlicense: cc0-1.0\ntags: [mine]\n---\n\n# My digits\n")
    assert run("push", "m", "user/small").code == 0
    card = stored(hub)["README.md"].decode()
    head = yaml.safe_load(card.split("---\n")[1])
    assert (head["license"], head["tags"], head["library_name"]) == ("cc0-1.0", ["mine"], "pixelloom")
    assert card.endswith("# My digits\n")


def test_revisions_are_branches_tags_and_commits(hub: Hub, tmp_path: Path) -> None:
    old = put(hub, tmp_path)
    commit = hub.repos["model", "user/small"].branches["main"]
    new = lively()
    new.push_to_hub("user/small")
    assert same(pl.load(f"hf:user/small@{commit}"), old)
    assert same(pl.load("hf:user/small", revision=commit), old)
    for load in (pl.load, PixelModel.from_pretrained):  # the argument takes the place of the name's revision
        assert same(load("hf:user/small@main", revision=commit), old)
    assert same(pl.load("hf:user/small"), new)
    hub.requests.clear()
    assert same(pl.load(f"hf:user/small@{commit}"), old)
    assert hub.requests == []  # a commit does not change


def test_only_three_files_are_fetched_and_only_once(hub: Hub, tmp_path: Path) -> None:
    put(hub, tmp_path, modeling__py=b"raise SystemExit", pytorch_model__bin=b"pickle", discriminator__safetensors=b"x")
    pl.load("hf:user/small")
    assert sorted(hub.fetched()) == sorted(NAMES)
    hub.requests.clear()
    pl.load("hf:user/small")
    assert hub.fetched() == []


# ---------------------------------------------------------------- faults, row 30


def fails(code: int, run: Command, *parts: str, name: str = "hf:user/small") -> None:
    said = run("info", name)
    assert said.code == code, said.err
    error = said.err.partition("pixelloom: ")[2]  # after the log
    assert 1 <= len(error.strip().splitlines()) <= 2
    assert len(error) < 600
    assert "Traceback" not in said.err
    for part in parts:
        assert part in said.err, (part, said.err)


def test_no_network_names_the_cached_copy(
    hub: Hub, run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = put(hub, tmp_path)
    with socket.socket() as taken:  # a port that nobody listens on
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        fails(4, run, "no connection to http://127.0.0.1", "check the network, or HF_ENDPOINT")
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        pl.load("hf:user/small")
        commit = hub.repos["model", "user/small"].branches["main"]
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        fails(
            4, run, "no connection to", f"a copy of commit {commit[:7]} is in the cache: set HF_HUB_OFFLINE=1, or name "
        )
        assert same(pl.load("hf:user/small", local_files_only=True), model)
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        assert same(pl.load("hf:user/small"), model)


def test_offline_mode(hub: Hub, run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(hub, tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    fails(4, run, "not in the cache, and offline mode", "connect once")
    assert hub.requests == []
    monkeypatch.delenv("HF_HUB_OFFLINE")
    pl.load("hf:user/small")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    fails(4, run, "offline mode", "the cache has another revision", name="hf:user/small@other")
    said = run("push", "binarized-mnist", "user/new")
    assert (said.code, "nothing is uploaded; unset HF_HUB_OFFLINE" in said.err) == (4, True)


def test_private_gated_and_missing_repositories(
    hub: Hub, run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(hub, tmp_path)
    fails(4, run, "no such repository, or it is private (HTTP 404)", "check the name", name="hf:user/none")
    fails(4, run, "no branch, tag or commit 'v9'", f"{hub.url}/user/small/tree/main", name="hf:user/small@v9")
    repo = hub.repos["model", "user/small"]
    repo.private = True
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    fails(4, run, "or it is private (HTTP 401)", "set HF_TOKEN, or log in with `hf auth login`")
    with pytest.raises(ModelError, match="HTTP 401"):
        pl.load("hf:user/small", token="hf_other")
    pl.load("hf:user/small", token=TOKEN)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    repo.gated = True
    fails(4, run, "gated", f"accept its terms at {hub.url}/user/small", "is in the cache")


def test_missing_files_and_files_that_are_too_large(hub: Hub, run: Command, tmp_path: Path) -> None:
    hub.repo("user/other", {"pytorch_model.bin": b"x", "config.json": b"{}"})
    fails(4, run, "model.safetensors missing", "pytorch_model.bin", name="hf:user/other")
    put(hub, tmp_path)
    hub.hidden = "config.json"  # listed, and not there
    fails(4, run, "a file is missing in the repository (HTTP 404)")
    hub.hidden = ""
    hub.repo("user/large", {"model.safetensors": b"x", "config.json": bytes(5 << 20)})
    hub.requests.clear()
    fails(4, run, "config.json has 5,242,880 bytes, and 4,194,304 are the most", name="hf:user/large")
    assert hub.fetched() == []


def test_an_interrupted_download_is_continued(hub: Hub, run: Command, tmp_path: Path) -> None:
    model = put(hub, tmp_path)
    hub.cuts = 3
    assert same(pl.load("hf:user/small"), model)
    hub.repo("user/again", dict(stored(hub)))
    hub.cuts = 1000
    fails(4, run, "interrupted", "run again to continue", name="hf:user/again")
    hub.cuts = 0
    assert same(pl.load("hf:user/again"), model)


def test_a_flipped_bit_on_the_way_and_in_the_cache(hub: Hub, run: Command, tmp_path: Path) -> None:
    model = put(hub, tmp_path)
    hub.flip = True
    fails(4, run, "is damaged", "the hub sends other bytes than it has recorded")
    hub.flip = False
    assert same(pl.load("hf:user/small"), model)  # fetched again
    (weights,) = Path("cache").rglob("snapshots/*/model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.resolve().write_bytes(content)
    with pytest.raises(ModelError, match=r"damaged.*remove .* and load it again with a network"):
        pl.load("hf:user/small", local_files_only=True)
    assert same(pl.load("hf:user/small"), model)


def test_a_file_whose_own_hash_is_wrong_and_a_description_of_another_network(
    hub: Hub, run: Command, tmp_path: Path
) -> None:
    put(hub, tmp_path)
    weights = bytearray(stored(hub)["model.safetensors"])
    weights[-1] ^= 1  # as it was uploaded: the hub's hash is that of the damaged file
    hub.repo("user/small", {"model.safetensors": bytes(weights)})
    fails(4, run, "its contents do not match their SHA-256")
    assert run("pull", "user/small", "--out", "there").code == 4
    assert not Path("there").exists()


def test_a_server_that_fails_and_a_full_disk(
    hub: Hub, run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(hub, tmp_path)
    hub.status = 503
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    fails(4, run, "HTTP 503", "try again later")
    hub.status = 0

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    fails(4, run, "the disk of the cache is full; free space, or set another cache folder by HF_HOME")


def test_uploads_that_are_refused(hub: Hub, run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    lively().save_pretrained("m")
    said = run("push", "m", "other/small")
    assert (said.code, "HTTP 403; the token does not allow this" in said.err) == (4, True)
    hub.repo("user/public", {"a": b""})
    said = run("push", "m", "user/public", "--private")
    assert (said.code, "exists and is public, so nothing is uploaded" in said.err) == (4, True)
    assert set(stored(hub, "user/public")) == {"a"}
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    said = run("push", "m", "user/small")
    assert (said.code, "HTTP 401; the token is missing or invalid" in said.err) == (4, True)


@pytest.mark.parametrize(
    "name", ["small", "a/b/c", "user/sm all", "user/../x", "user/a--b", "/etc", "user/x@", "user/x:y"]
)
def test_names_that_are_none(name: str, run: Command, hub: Hub) -> None:
    said = run("pull", name)
    assert (said.code, "USER/NAME" in said.err) == (2, True), said.err
    assert hub.requests == []


def test_references() -> None:
    assert Reference.parse("hf:a/b.c@refs/pr/1") == Reference("a/b.c", "refs/pr/1")
    assert Reference.parse("a/b:gray@v1", "dataset") == Reference("a/b", "v1", "gray", "dataset")
    assert str(Reference.parse("a/b:gray@v1", "dataset")) == "hf:a/b:gray@v1"
    with pytest.raises(UsageError, match="hf:"):
        pl.load("digits", revision="main")


def test_without_the_library_the_extra_is_named(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['huggingface_hub'] = None\n"
        "from pixelloom.cli import main; sys.exit(main(['info', 'hf:user/small']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr == "pixelloom: the Hugging Face hub needs huggingface_hub: pip install 'pixelloom[hub]'\n"
