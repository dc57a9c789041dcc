"""Published checkpoints of UneXt50 and EffUnet (.pth) as a weights folder that predicts like any other.

The published nets stand in public notebooks for the competitions of 2020 and 2022 and are written with fastai: blocks
`enc0` to `enc4` (UneXt50) or an `encoder` of efficientnet_pytorch (EffUnet), `aspp`, `dec4` to `dec1`, `fpn` and
`final_conv`, and the convolutions before each pixel shuffle are weight-normalised. Their names and tensors are brought
into ours.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from histofold.competitions.registry import get_competition
from histofold.core.faults import Fault, InputError
from histofold.core.log import logger
from histofold.kaggle.published.settings import ImportSettings
from histofold.kaggle.weights_folder import check_target, write_package
from histofold.models.build import build_model
from histofold.schema.manifest import Manifest, Member, file_sha256

NO_FOLD = -1
"""The fold of an imported member: none of ours."""
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "model.")


def import_package(
    files: Sequence[Path], settings: ImportSettings, out: Path, slug: str = "", licence: str = "other"
) -> Manifest:
    """Put published checkpoints of one architecture into a weights folder, an ensemble of as many members as files.

    Files that an earlier package put there are replaced; the licence is that of whoever published the weights.

    Raises:
        InputError: With the faults of the first file that cannot be read or does not fit, or of the settings; files of
            the same name or the same weights.
    """
    manifest = settings.manifest()
    get_competition(settings.competition)  # refuses one that no adapter could write a submission for
    check_target(out)
    if settings.pixel_size_um is None and settings.whole_size is None:
        size = manifest.preprocessing.target_pixel_size_um
        logger.warning("a file does not say at which scale it was trained: %g um assumed (--pixel-size-um)", size)
    logger.info("imported weights keep the licence under which they were published; the dataset says %r", licence)
    with tempfile.TemporaryDirectory() as name:
        converted = _convert_all(files, settings, Path(name))
        members = tuple(
            Member(
                file=path.name,
                sha256=digest,
                architecture=settings.architecture,
                arguments=settings.arguments(),
                fold=NO_FOLD,
            )
            for digest, path in converted.items()
        )
        sources = {path.name: path for path in converted.values()}
        return write_package(replace(manifest, members=members), sources, out, slug, licence)


def read_published_state(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .pth file, out of what training scripts wrap around them.

    Only tensors and plain containers are unpickled (`weights_only`): a file can run no code.

    Raises:
        InputError: If it is missing, holds anything else, or no tensors.
    """
    if not file.is_file():
        raise InputError([Fault(file.stem, str(file), "no such file", "check the path after --import")])
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        rule = f"is no file of tensors alone ({type(error).__name__})"
        remedy = "load it where it was trained and save `model.state_dict()`"
        raise InputError([Fault(file.stem, str(file), rule, remedy)]) from error
    while isinstance(state, dict) and (wrapper := next((key for key in _WRAPPERS if key in state), None)):
        state = state[wrapper]
    if not isinstance(state, dict) or not state or not all(isinstance(t, torch.Tensor) for t in state.values()):
        rule = "holds no table of named tensors"
        raise InputError([Fault(file.stem, str(file), rule, "save `model.state_dict()`")])
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _convert_all(files: Sequence[Path], settings: ImportSettings, folder: Path) -> dict[str, Path]:
    """Our weights of each file, in `folder`, by their SHA-256."""
    if not files:
        raise InputError([Fault("import", "command line", "no file given", "name at least one .pth file")])
    with torch.device("meta"):  # names and shapes are all that is wanted
        wanted = build_model(settings.architecture, settings.arguments()).state_dict()
    converted: dict[str, Path] = {}
    names: dict[str, Path] = {}
    for file in files:
        state = to_our_state(read_published_state(file), wanted, str(file), settings.architecture)
        target = folder / (re.sub(r"[^A-Za-z0-9_.-]+", "_", file.stem) + ".safetensors")
        if target.name in names:
            rule = f"its weights would get the name of those of {names[target.name]}"
            raise InputError([Fault(file.stem, str(file), rule, "rename one of the two")])
        names[target.name] = file
        save_file(state, target)
        digest = file_sha256(target)
        if digest in converted:
            rule = f"the same weights as {names[converted[digest].name]}"
            raise InputError([Fault(file.stem, str(file), rule, "an ensemble needs distinct ones: leave one out")])
        converted[digest] = target
    return converted


SHOWN_FAULTS = 20
_RENAMED = (
    (r"enc0\.0\.(.+)", r"encoder.conv1.\1"),
    (r"enc0\.1\.(.+)", r"encoder.bn1.\1"),
    (r"enc1\.1\.(.+)", r"encoder.layer1.\1"),
    (r"enc([234])\.(.+)", r"encoder.layer\1.\2"),
    (r"aspp\.global_pool\.(.+)", r"aspp.overall.\1"),
    (r"aspp\.out_conv\.(.+)", r"aspp.join.\1"),
    (r"fpn\.convs\.(.+)", r"pyramid.levels.\1"),
    (r"final_conv\.(?:0\.)?(weight|bias)", r"head.\1"),
)
_BLOCK_PARTS = {"shuf.0.0": "up.0", "bn": "skip_norm", "conv1.0": "conv1.0", "conv2.0": "conv2.0"}
_BRANCH_PARTS = {"atrous_conv": 0, "bn": 1}
# Held by the published nets and never used there: a second joining convolution, an encoder's classifier.
_UNUSED = re.compile(r"aspp\.conv1\.weight|encoder\.(?:_conv_head|_bn1|_fc)\.\w+")
_VARIANTS = (
    (r"mixupsample\.", "of a variant that learns its upsampling, and ours does not"),
    (r"fpn\.convs\.\d\.1\.", "of a variant whose pyramid normalises before its ReLU, and ours does so after it"),
    (r"dec\d\.conv2\.\d\.(?:query|key|value|gamma)", "of a variant with self-attention, and ours has none"),
    (r"(?:cls|cls_layer|classifier|pool_layer)\b", "of a second head, for classification"),
    (r"enc\d\.|encoder\.", "of another encoder"),
)


def to_our_state(
    published: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], file: str, architecture: str
) -> dict[str, torch.Tensor]:
    """A published state dict as one of our network: strict, every tensor used, every tensor filled.

    Raises:
        InputError: With the tensors that are missing, left over, of another shape or not finite, at most
            `SHOWN_FAULTS` of each kind.
    """
    given = {name: tensor for name, tensor in fold_weight_norm(published).items() if not _UNUSED.fullmatch(name)}
    source = {our_name(name): name for name in given}
    faults = _name_faults(source, wanted, file, architecture)
    known = [name for name in wanted if name in source]
    faults += _first(
        [
            Fault(
                source[name],
                file,
                _unequal(given[source[name]], wanted[name], architecture),
                "look at --architecture and --classes",
            )
            for name in known
            if given[source[name]].shape != wanted[name].shape
        ]
    )
    faults += _first(
        [
            Fault(
                source[name], file, "holds values that are not finite numbers", "the training broke: take another file"
            )
            for name in known
            if not given[source[name]].isfinite().all()
        ]
    )
    if faults:
        raise InputError(faults)
    return {name: given[source[name]].to(tensor.dtype).contiguous() for name, tensor in wanted.items()}


def our_name(name: str) -> str:
    """Our name of a published tensor; a name that no rule knows stays."""
    if block := re.fullmatch(r"dec([1-4])\.(shuf\.0\.0|bn|conv[12]\.0)\.(\w+)", name):
        return f"decoder.{4 - int(block[1])}.{_BLOCK_PARTS[block[2]]}.{block[3]}"
    if branch := re.fullmatch(r"aspp\.aspps\.(\d+)\.(atrous_conv|bn)\.(\w+)", name):
        home = f"dilated.{int(branch[1]) - 1}" if int(branch[1]) else "point"
        return f"aspp.{home}.{_BRANCH_PARTS[branch[2]]}.{branch[3]}"
    for pattern, ours in _RENAMED:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, ours, name)
    return name


def fold_weight_norm(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weight normalisation (Salimans and Kingma 2016, arXiv:1602.07868) folded: weight = g v / |v|, by output channel.

    Both of torch's spellings are known: `weight_g`, `weight_v`, and `parametrizations.weight.original0`, `.original1`.
    A length or a direction alone stays as it is, under its own name.
    """
    folded = dict(tensors)
    for name in tensors:
        match = re.fullmatch(r"(.*)(weight_g|parametrizations\.weight\.original0)", name)
        if match is None:
            continue
        direction = match[1] + ("weight_v" if match[2] == "weight_g" else "parametrizations.weight.original1")
        if direction in folded:
            length, vectors = folded.pop(name).double(), folded.pop(direction).double()
            norms = vectors.flatten(1).norm(dim=1).reshape(-1, *[1] * (vectors.dim() - 1))
            folded[f"{match[1]}weight"] = (vectors * (length / norms)).float()
    return folded


def _name_faults(
    source: Mapping[str, str], wanted: Mapping[str, torch.Tensor], file: str, architecture: str
) -> list[Fault]:
    """The tensors that one side has and the other lacks; `source` is the published name by ours."""
    remedy = "look whether --architecture is right and the file is whole"
    rule = f"{architecture} needs this tensor, and the file has none for it"
    missing = [Fault(name, file, rule, remedy) for name in wanted if name not in source]
    left_over = []
    for ours, name in source.items():
        if ours not in wanted:
            variant = next((text for pattern, text in _VARIANTS if re.match(pattern, name)), "unknown there")
            rule = f"left over: {architecture} has no place for it, it is {variant}"
            left_over.append(Fault(name, file, rule, f"only the published {architecture} itself can be imported"))
    return [*_first(missing), *_first(left_over)]


def _unequal(given: torch.Tensor, wanted: torch.Tensor, architecture: str) -> str:
    return f"its shape is {tuple(given.shape)}, and that of {architecture} is {tuple(wanted.shape)}"


def _first(faults: Sequence[Fault]) -> list[Fault]:
    """The first faults of a kind; where there are more, one line counts them."""
    if len(faults) <= SHOWN_FAULTS:
        return list(faults)
    rest = f"{len(faults) - SHOWN_FAULTS + 1} more tensors"
    last = faults[SHOWN_FAULTS - 1]
    return [*faults[: SHOWN_FAULTS - 1], Fault(rest, last.file, f"as {last.id}: {last.rule}", last.remedy)]
