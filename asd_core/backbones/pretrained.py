"""Published checkpoints of BEATs and EAT: what a file is, told by its content alone, and its weights under one set
of names. Nothing in a file is ever run: pickles are read in PyTorch's weights-only mode, without additions.

========================  =====================================================================================
format                    tensors
========================  =====================================================================================
"beats"                   ``{"cfg", "model"[, "label_dict"]}`` of torch.save, as microsoft/unilm publishes them; or
                          safetensors with the same names and ``cfg`` as JSON in the header, as `pretraining` writes
"eat-huggingface"         safetensors with names under ``model.``; configuration in a JSON file beside it
"eat-fairseq"             torch.save by fairseq: names under ``modality_encoders.IMAGE.``; the decoder of the
                          pre-training and the teacher's copy (``_ema``) are left out
========================  =====================================================================================

Names handed out are BEATs' own, and for EAT those of Hugging Face without ``model.``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asd_core.backbones.checkpoint_file import Content, open_file, refusal, refusing, short, some, told
from asd_core.files import read_json

BANDS = 8  # patches along frequency; EAT's table of positions is time · 8 long
BEATS_FLAGS = (
    "finetuned_model",
    "conv_bias",
    "layer_norm_first",
    "deep_norm",
    "relative_position_embedding",
    "gru_rel_pos",
)
BEATS_RATES = ("dropout_input", "dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop")
MAX_DISTANCE = 800  # of BEATs where its configuration does not tell, as published
HEAD_WIDTH = 64  # of every published EAT, where no configuration tells the number of heads
TITLES = {"beats": "BEATs", "eat": "EAT"}
PRECISIONS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a checkpoint is, without its weights.

    config: BEATs: the ``cfg`` inside the file. EAT: the keys of Hugging Face's config.json that sizes depend on
        (embed_dim, depth, num_heads, mlp_ratio, max_length, patch_size, norm_eps, layer_norm_first, model_variant).
    classes: of the classifier that a fine-tuned checkpoint has, else None.
    notes: what was assumed, in words.
    """

    family: str  # "beats" or "eat"
    format: str  # see above
    config: dict[str, Any]
    classes: int | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Pretrained(Description):
    """A checkpoint: float32 tensors on the CPU by canonical name, and the names of its classes by number, if any."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    labels: dict[int, str] | None = None


def read(path: Path) -> Pretrained:
    """Read a checkpoint and check it in full: names, shapes, configuration, every number finite.

    Tensors of torch.save may stay mapped to the file, so it must not be written to while they are in use.

    Raises:
        AsdError: not a checkpoint of BEATs or EAT, damaged, inconsistent, or it asks for code to be run.
    """
    path = Path(path)
    with refusing(path):
        found, content = _describe(path, values=True)
        tensors = {name: content.tensors[original].float() for name, original in content.names.items()}
        for name, values in tensors.items():
            if wrong := int((~torch.isfinite(values)).sum()):
                raise refusal(path, f"{wrong:,} of the {values.numel():,} values of {name} are NaN or infinite.")
        labels = _labels(path, content.top.get("label_dict"), found.classes) if found.family == "beats" else None
        return Pretrained(**vars(found), tensors=tensors, labels=labels)


def read_config(path: Path) -> Description:
    """The same without the weights: quick, and checks all but the numbers."""
    path = Path(path)
    with refusing(path):
        return _describe(path, values=False)[0]


# ------------------------------------------------------------------ what it is


def _describe(path: Path, values: bool) -> tuple[Description, Content]:
    content = open_file(path, values)
    family, shares = _family(content.tensors)
    if family is None:
        nearest = max(shares, key=lambda one: shares[one])
        raise refusal(
            path,
            f"its weights ({some(content.tensors)}) are of another model. The nearest that is known, "
            f"{TITLES[nearest]}, has names such as {some(_landmarks(nearest))}; {shares[nearest]:.0%} of its names "
            "are here.",
            "Known are BEATs and EAT, as their authors published them.",
        )
    found = (_describe_beats if family == "beats" else _describe_eat)(path, content)
    for name, original in content.names.items():
        kind = content.tensors[original].dtype
        if kind not in PRECISIONS:
            raise refusal(
                path,
                f"{name} holds {str(kind).removeprefix('torch.')}, not floating-point numbers of 16, 32 or 64 bits.",
            )
    return found, content


def _family(names: Collection[str]) -> tuple[str | None, dict[str, float]]:
    """The family that at least half of the names are of, and the share of each family's names that is here."""
    here = {"beats": {_pattern(name) for name in names}, "eat": {_pattern(_eat_name(name)) for name in names}}
    shares = {}
    for family, found in here.items():
        known = {_pattern(name) for name in _landmarks(family)}
        shares[family] = len(known & found) / len(known)
    best = max(shares, key=lambda family: shares[family])
    return (best if shares[best] >= 0.5 else None), shares


def _landmarks(family: str) -> list[str]:
    """All names of a one-layer model of a family; those that tell most come first."""
    if family == "beats":
        sizes = dict.fromkeys(
            ("encoder_embed_dim", "encoder_ffn_embed_dim", "encoder_attention_heads", "num_buckets", "conv_pos"), 1
        )
        flags = {"relative_position_embedding": True, "gru_rel_pos": True}
        plan = {"encoder_layers": 1, "embed_dim": 2, "input_patch_size": 1, "conv_pos_groups": 1}
        return list(_beats_shapes(sizes | flags | plan, None))
    return list(_eat_shapes({"embed_dim": 1, "depth": 1, "mlp_ratio": 1, "max_length": 1, "patch_size": 1}, None))


def _pattern(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def _compare(path: Path, family: str, content: Content, expected: Shapes, optional: Collection[str] = ()) -> None:
    """Names and shapes must be the expected ones, neither more nor less."""
    here = {name: tuple(content.tensors[original].shape) for name, original in content.names.items()}
    problems = {
        "Missing": [name for name in expected if name not in here and name not in optional],
        "Not part of it": [name for name in here if name not in expected],
        "Of another shape": [
            f"{name} ({by(here[name])} instead of {by(shape)})"
            for name, shape in expected.items()
            if name in here and here[name] != shape
        ],
    }
    told = " ".join(f"{what}: {some(names)}." for what, names in problems.items() if names)
    if any(name.startswith("quantize") for name in problems["Not part of it"]):
        raise refusal(
            path,
            f"it is a tokenizer of {TITLES[family]}, which made the targets of the pre-training.",
            "Take the pre-trained model from the same table.",
        )
    if told:
        raise refusal(path, f"it looks like {TITLES[family]}, but its weights do not fit its configuration. {told}")


# ------------------------------------------------------------------ BEATs


def _describe_beats(path: Path, content: Content) -> Description:
    content.names = {name: name for name in content.tensors}
    config = content.top.get("cfg")
    if not isinstance(config, dict):
        raise refusal(path, 'it holds weights of BEATs, but no configuration ("cfg"), which cannot be told from them.')
    whole = (
        "encoder_layers",
        "encoder_embed_dim",
        "encoder_ffn_embed_dim",
        "encoder_attention_heads",
        "embed_dim",
        "input_patch_size",
        "conv_pos",
        "conv_pos_groups",
    )
    _must(path, config, BEATS_FLAGS, _is_flag, "True or False", optional=True)
    needed = (*whole, "num_buckets") if config.get("relative_position_embedding") else whole
    _must(path, config, needed, _is_size, "a positive whole number")
    _must(path, config, ("max_distance",), _is_size, "a positive whole number", optional=True)
    _must(path, config, BEATS_RATES, _is_rate, "a number from 0 to below 1", optional=True)
    _must(path, config, ("layer_wise_gradient_decay_ratio",), _is_decay, "a number above 0, up to 1", optional=True)
    _must(path, config, ("activation_fn",), _is_word, "the name of a function", optional=True)
    buckets, distance = config.get("num_buckets", 0), config.get("max_distance", MAX_DISTANCE)
    if config.get("relative_position_embedding") and not 1 <= buckets // 4 < distance:
        raise refusal(
            path,
            f"its configuration has num_buckets = {buckets}, max_distance = {distance}: there must be at least 4 "
            f"buckets, and the distance must be above a quarter of them.",
        )
    layers = len({match[1] for name in content.tensors if (match := re.match(r"encoder\.layers\.(\d{1,6})\.", name))})
    if config["encoder_layers"] != layers:  # before a list of all names is made
        raise refusal(path, f"its configuration has encoder_layers = {config['encoder_layers']}, its weights {layers}.")
    _divides(path, config, "encoder_attention_heads", "encoder_embed_dim")
    _divides(path, config, "conv_pos_groups", "encoder_embed_dim")
    fine_tuned = config.get("finetuned_model", False)
    predictor = content.tensors.get("predictor.weight")
    classes = None
    if fine_tuned or predictor is not None:
        classes = config.get("predictor_class")
        if not _is_size(classes) or not fine_tuned:
            raise refusal(
                path,
                f"it has a classifier, but its configuration has finetuned_model = {fine_tuned}, "
                f"predictor_class = {told(classes)}.",
            )
    copies = {f"encoder.layers.{i}.self_attn.relative_attention_bias.weight" for i in range(1, layers)}
    _compare(path, "beats", content, _beats_shapes(config, classes), optional=copies)
    return Description(family="beats", format="beats", config={"finetuned_model": False} | config, classes=classes)


def _beats_shapes(config: Mapping[str, Any], classes: int | None) -> Shapes:
    width, ffn, heads = (config[f"encoder_{key}"] for key in ("embed_dim", "ffn_embed_dim", "attention_heads"))
    patch, side, kernel = config["embed_dim"], config["input_patch_size"], config["conv_pos"]
    shapes: Shapes = {
        "patch_embedding.weight": (patch, 1, side, side),
        "encoder.pos_conv.0.bias": (width,),
        "encoder.pos_conv.0.weight_g": (1, 1, kernel),
        "encoder.pos_conv.0.weight_v": (width, width // config["conv_pos_groups"], kernel),
        **_affine("layer_norm", patch),
        **_affine("encoder.layer_norm", width),
    }
    if config.get("conv_bias"):
        shapes["patch_embedding.bias"] = (patch,)
    if patch != width:
        shapes |= _affine("post_extract_proj", width, patch)
    for i in range(config["encoder_layers"]):
        layer = f"encoder.layers.{i}"
        if config.get("relative_position_embedding"):
            shapes[f"{layer}.self_attn.relative_attention_bias.weight"] = (config["num_buckets"], heads)
            if config.get("gru_rel_pos"):
                shapes[f"{layer}.self_attn.grep_a"] = (1, heads, 1, 1)
                shapes |= _affine(f"{layer}.self_attn.grep_linear", 8, width // heads)
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= _affine(f"{layer}.self_attn.{projection}", width, width)
        shapes |= _affine(f"{layer}.fc1", ffn, width) | _affine(f"{layer}.fc2", width, ffn)
        shapes |= _affine(f"{layer}.self_attn_layer_norm", width) | _affine(f"{layer}.final_layer_norm", width)
    if classes is not None:
        shapes |= _affine("predictor", classes, width)
    return shapes


def _labels(path: Path, labels: Any, classes: int | None) -> dict[int, str] | None:
    if labels is None or classes is None:
        return None
    if (
        not isinstance(labels, dict)
        or {*labels} != {*range(classes)}
        or not all(isinstance(label, str) for label in labels.values())
    ):
        raise refusal(path, f"its label_dict does not name the classes 0 to {classes - 1} of its classifier.")
    return {number: short(labels[number]) for number in range(classes)}


# ------------------------------------------------------------------ EAT


def _eat_name(name: str) -> str:
    """The canonical name; of the pre-training's decoder it begins with ``decoder.``."""
    name = name.removeprefix("model.").removeprefix("modality_encoders.IMAGE.")
    return name.replace("context_encoder.norm.", "pre_norm.", 1) if name.startswith("context_encoder.") else name


def _describe_eat(path: Path, content: Content) -> Description:
    for original in content.tensors:
        name = _eat_name(original)
        if name in content.names:
            raise refusal(
                path, f"two of its tensors mean {short(name)}: {short(content.names[name])} and {short(original)}."
            )
        if not name.startswith("decoder."):
            content.names[name] = original
    fairseq = any("modality_encoders.IMAGE." in original for original in content.tensors)
    stated = _stated_by_fairseq(content.top.get("cfg")) if fairseq else _stated_beside(path)
    config, notes = _eat_config(path, content, stated)
    head = content.tensors.get(content.names.get("head.weight", ""))
    fine_tuned = head is not None or "fc_norm.weight" in content.names
    classes = head.shape[0] if head is not None and head.dim() == 2 else 1
    config["model_variant"] = "finetune" if fine_tuned else "pretrain"  # published config.json files are wrong here
    _compare(path, "eat", content, _eat_shapes(config, classes if fine_tuned else None))
    return Description(
        family="eat",
        format="eat-fairseq" if fairseq else "eat-huggingface",
        config=config,
        classes=classes if fine_tuned else None,
        notes=notes,
    )


def _eat_config(path: Path, content: Content, stated: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Sizes as the tensors have them, which a stated configuration must not contradict; the rest as stated."""

    def shape(name: str, dimensions: int) -> tuple[int, ...]:
        original = content.names.get(name)
        if original is None:
            raise refusal(path, f"it looks like EAT, but misses {name}.")
        found = tuple(content.tensors[original].shape)
        if len(found) != dimensions or 0 in found:
            raise refusal(path, f"it looks like EAT, but {name} has the shape {by(found)}.")
        return found

    width, _, side, _ = shape("local_encoder.proj.weight", 4)
    hidden = shape("blocks.0.mlp.fc1.weight", 2)[0]
    places = shape("fixed_positional_encoder.positions", 3)[1]
    blocks = {int(match[1]) for name in content.names if (match := re.match(r"blocks\.(\d{1,4})\.", name))}
    sizes = {"embed_dim": width, "depth": len(blocks), "mlp_ratio": hidden / width, "patch_size": side}
    sizes["max_length"] = places // BANDS
    for key, value in sizes.items():
        if stated.get(key) not in (None, value):
            raise refusal(path, f"its configuration says {key} = {told(stated[key])}, but its weights have {value:g}.")
    heads = stated.get("num_heads")
    notes: tuple[str, ...] = ()
    if heads is None:
        heads = max(1, width // HEAD_WIDTH)
        notes = (f"No configuration was found; {heads} attention heads of width {HEAD_WIDTH} are assumed.",)
    if not _is_size(heads) or width % heads:
        raise refusal(path, f"{told(heads)} attention heads do not divide a width of {width}.")
    rest = {"num_heads": heads, "norm_eps": 1e-6, "layer_norm_first": False}
    config = sizes | rest | {key: stated[key] for key in rest if stated.get(key) is not None}
    _must(path, config, ("norm_eps",), _is_epsilon, "a number above 0, below 0.01")
    _must(path, config, ("layer_norm_first",), _is_flag, "True or False")
    return config, notes


def _stated_by_fairseq(config: Any) -> dict[str, Any]:
    """The keys of `Description.config` that fairseq's configuration has; {} where there is none."""
    try:
        model = config["model"]
        if "pretrained_model_args" in model:  # a fine-tuned model's own settings are those of its training
            model = model["pretrained_model_args"]["model"]
        image = model["modalities"]["image"]
        own = {key: model.get(key) for key in ("embed_dim", "depth", "num_heads", "norm_eps", "layer_norm_first")}
        return (
            own | {key: image.get(key) for key in ("patch_size", "max_length")} | {"mlp_ratio": model.get("mlp_ratio")}
        )
    except (AttributeError, LookupError, TypeError):
        return {}


def _stated_beside(path: Path) -> dict[str, Any]:
    """Hugging Face's configuration: ``<name>_config.json`` or ``config.json`` in the same folder, if it is EAT's."""
    for file in (path.with_name(f"{path.stem}_config.json"), path.with_name("config.json")):
        if file.is_file():
            stated = read_json(file)
            if isinstance(stated, dict) and stated.get("model_type") == "eat":
                return stated
    return {}


def _eat_shapes(config: Mapping[str, Any], classes: int | None) -> Shapes:
    width, side = config["embed_dim"], config["patch_size"]
    hidden = round(width * config["mlp_ratio"])
    shapes: Shapes = {
        "local_encoder.proj.weight": (width, 1, side, side),
        "local_encoder.proj.bias": (width,),
        "extra_tokens": (1, 1, width),
        "fixed_positional_encoder.positions": (1, BANDS * config["max_length"], width),
        **_affine("pre_norm", width),
    }
    for i in range(config["depth"]):
        block = f"blocks.{i}"
        shapes |= _affine(f"{block}.attn.qkv", 3 * width, width) | _affine(f"{block}.attn.proj", width, width)
        shapes |= _affine(f"{block}.mlp.fc1", hidden, width) | _affine(f"{block}.mlp.fc2", width, hidden)
        shapes |= _affine(f"{block}.norm1", width) | _affine(f"{block}.norm2", width)
    if classes is not None:
        shapes |= _affine("fc_norm", width) | _affine("head", classes, width)
    return shapes


# ------------------------------------------------------------------ words


def _affine(name: str, out: int, *into: int) -> Shapes:
    """A linear layer, or without an input size a normalisation."""
    return {f"{name}.weight": (out, *into), f"{name}.bias": (out,)}


def _must(
    path: Path,
    config: Mapping[str, Any],
    keys: Iterable[str],
    fits: Callable[[Any], bool],
    due: str,
    optional: bool = False,
) -> None:
    """Refuse values that do not fit; `optional` ones may be left out."""
    for key in keys:
        if not (fits(config.get(key)) or (optional and key not in config)):
            raise refusal(path, f"its configuration has {key} = {told(config.get(key))}, where {due} is due.")


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1_000_000


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_rate(value: Any) -> bool:
    return _is_number(value) and 0 <= value < 1


def _is_decay(value: Any) -> bool:
    return _is_number(value) and 0 < value <= 1


def _is_epsilon(value: Any) -> bool:
    return _is_number(value) and 0 < value < 1e-2


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and len(value) < 40 and value.isidentifier()


def _divides(path: Path, config: Mapping[str, Any], part: str, whole: str) -> None:
    if config[whole] % config[part]:
        raise refusal(
            path, f"its configuration has {whole} = {config[whole]}, which {part} = {config[part]} does not divide."
        )


def by(shape: Iterable[int]) -> str:
    return "×".join(map(str, shape)) or "a single number"
