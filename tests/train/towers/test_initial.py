"""Where towers start from: every tensor is accounted for, and what is taken computes the same."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from prolip_search.encoders.config import ProLIPConfig, parse_config
from prolip_search.encoders.preprocessing import CLIP_MEAN, CLIP_STD
from prolip_search.encoders.prolip import ProLIP
from prolip_search.errors import CheckpointError, ConfigError, EncoderNotFound
from prolip_search.train.towers.export import export_released
from prolip_search.train.towers.initial import Initialisation, initialise
from tests.train.towers.clips import CLIP, SIGLIP, SIGLIP_PIXELS, make_clip, save_clip

PROLIP_LIKE_CLIP: dict[str, Any] = {
    "embed_dim": 32,
    "init_logit_bias": -10,
    "vision_cfg": {
        "image_size": 32,
        "patch_size": 8,
        "width": 48,
        "layers": 2,
        "head_width": 16,
        "embed_unc": True,
    },
    "text_cfg": {"context_length": 20, "vocab_size": 300, "width": 32, "heads": 2, "layers": 2},
}
PROLIP_LIKE_SIGLIP: dict[str, Any] = {
    "embed_dim": 64,
    "init_logit_bias": -10,
    "vision_cfg": {
        "image_size": 160,
        "patch_size": 16,
        "width": 64,
        "layers": 8,
        "head_width": 32,
        "mlp_ratio": 3.0,
        "ls_init_value": 1e-5,
        "embed_unc": True,
    },
    "text_cfg": {
        "context_length": 12,
        "vocab_size": 32_100,
        "width": 64,
        "heads": 2,
        "layers": 2,
        "norm_kwargs": {"eps": 1e-6},
    },
}


@pytest.fixture(autouse=True)
def one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small towers are slower on many; fingerprints go to the test's own folder."""
    monkeypatch.setenv("PROLIP_SEARCH_CACHE", str(tmp_path / "cache"))
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def config_of(values: dict[str, Any], **changes: dict[str, Any]) -> ProLIPConfig:
    """A configuration with some keys of its sections changed."""
    values = copy.deepcopy(values)
    for section, change in changes.items():
        values[section].update(change)
    return parse_config(values)


def fresh(config: ProLIPConfig, seed: int = 5) -> ProLIP:
    """Towers at their beginning."""
    torch.manual_seed(seed)
    return ProLIP.from_config(config).eval()


def exported(folder: Path, config: ProLIPConfig, seed: int = 1) -> tuple[Path, ProLIP]:
    """A checkpoint in the released layout, of CLIP's vocabulary so that it needs no tokenizer."""
    model = fresh(config, seed)
    return export_released(model, config, folder, tokenizer=None, training={}), model


def account(done: Initialisation, model: ProLIP) -> None:
    """Every tensor of the towers is told of exactly once."""
    told = [*done.taken, *done.resized, *done.fresh]
    assert sorted(told) == sorted(model.state_dict())


def test_scratch_leaves_everything_fresh() -> None:
    model = fresh(config_of(PROLIP_LIKE_CLIP))
    before = copy.deepcopy(model.state_dict())
    done = initialise(model)
    account(done, model)
    assert len(done.fresh) == len(before)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def clip_vocabulary(**changes: dict[str, Any]) -> ProLIPConfig:
    """A tiny ProLIP that needs no tokenizer file."""
    text = {"vocab_size": 49_408, **changes.pop("text_cfg", {})}
    return config_of(PROLIP_LIKE_CLIP, text_cfg=text, **changes)


def test_the_same_towers_are_taken_whole(tmp_path: Path) -> None:
    folder, source = exported(tmp_path / "a", clip_vocabulary())
    model = fresh(clip_vocabulary())
    done = initialise(model, str(folder))
    account(done, model)
    assert len(done.taken) == len(model.state_dict())
    assert not done.unused
    assert all(
        torch.equal(value, source.state_dict()[name]) for name, value in model.state_dict().items()
    )


def test_longer_texts_and_larger_images_resize_the_positions_alone(tmp_path: Path) -> None:
    short = clip_vocabulary(text_cfg={"context_length": 40})
    folder, source = exported(tmp_path / "a", short)
    longer = clip_vocabulary(text_cfg={"context_length": 150}, vision_cfg={"image_size": 48})
    model = fresh(longer)
    done = initialise(model, str(folder))
    account(done, model)
    assert done.resized == {
        "visual.positional_embedding": "18 → 38 positions",
        "text.positional_embedding": "42 → 152 positions",
    }
    assert not done.fresh
    assert not done.unused
    table, before = model.text.positional_embedding, source.text.positional_embedding
    assert torch.equal(table[:20], before[:20])
    assert torch.equal(table[-2:], before[-2:])
    assert torch.equal(
        model.visual.positional_embedding[:2], source.visual.positional_embedding[:2]
    )
    assert "changed  text.positional_embedding: 42 → 152 positions" in "\n".join(done.lines())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"vision_cfg": {"layers": 3}}, "resblocks.2"),
        ({"vision_cfg": {"layers": 1}}, "resblocks.1"),
        ({"vision_cfg": {"patch_size": 16}}, r"visual\.conv1"),
        ({"text_cfg": {"vocab_size": 300}}, r"text\.token_embedding"),
    ],
)
def test_another_prolip_is_refused_by_the_name_that_does_not_fit(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    folder, _ = exported(tmp_path / "a", clip_vocabulary())
    with pytest.raises(CheckpointError, match=f"{told}.*Only the context length"):
        initialise(fresh(clip_vocabulary(**changes)), str(folder))


def test_what_no_shape_shows_is_refused_as_well(tmp_path: Path) -> None:
    folder, _ = exported(tmp_path / "a", clip_vocabulary())
    with pytest.raises(ConfigError, match="heads 2, the recipe 4"):
        initialise(fresh(clip_vocabulary(text_cfg={"heads": 4})), str(folder))
    clip = save_clip(tmp_path / "clip", make_clip())
    with pytest.raises(ConfigError, match="3 attention heads, the recipe's 6"):
        initialise(
            fresh(config_of(PROLIP_LIKE_CLIP, vision_cfg={"head_width": 8})), f"open_clip:{clip}"
        )
    quick = save_clip(
        tmp_path / "quick", make_clip({**CLIP, "quick_gelu": True}), {**CLIP, "quick_gelu": True}
    )
    with pytest.raises(ConfigError, match="quick_gelu true"):
        initialise(fresh(config_of(PROLIP_LIKE_CLIP)), f"open_clip:{quick}")


def test_every_tensor_of_a_clip_is_accounted_for(tmp_path: Path) -> None:
    clip = make_clip()
    model = fresh(config_of(PROLIP_LIKE_CLIP))
    done = initialise(model, f"open_clip:{save_clip(tmp_path / 'clip', clip)}")
    account(done, model)
    assert set(done.fresh) == {
        "visual.unc_embedding",
        "visual.uncertainty_proj.weight",
        "visual.uncertainty_proj.bias",
        "text.cls_emb",
        "text.unc_emb",
        "text.text_projection.bias",
        "text.text_uncertainty_projection.weight",
        "text.text_uncertainty_projection.bias",
    }
    assert set(done.resized) == {
        "visual.positional_embedding",
        "text.positional_embedding",
        "text.text_projection.weight",
        "logit_scale",
        "logit_bias",
    }
    assert not done.unused
    assert model.logit_scale.item() == pytest.approx(math.log(10))
    assert model.logit_bias is not None
    assert model.logit_bias.item() == -10
    assert torch.equal(model.text.text_projection.weight, clip.text_projection.T)  # type: ignore[union-attr]
    assert torch.equal(model.text.positional_embedding[:20], clip.positional_embedding)


@torch.inference_mode()
def test_the_patches_of_a_clip_come_out_as_the_clip_gives_them(tmp_path: Path) -> None:
    """Without the new [UNC] token in the sequence, the tower is the CLIP's, token for token."""
    clip = make_clip()
    model = fresh(config_of(PROLIP_LIKE_CLIP))
    initialise(model, f"open_clip:{save_clip(tmp_path / 'clip', clip)}")
    pixels = torch.randn(3, 3, 32, 32)
    clip.visual.output_tokens = True
    expected_mean, expected_patches = clip.visual(pixels)
    tower = model.visual
    patches = tower.conv1(pixels).flatten(2).transpose(1, 2) + tower.positional_embedding[2:]
    cls = (tower.class_embedding + tower.positional_embedding[0]).expand(3, 1, -1)
    tokens = tower.transformer(tower.ln_pre(torch.cat([cls, patches], dim=1)))
    tokens = tower.ln_post(tokens)
    torch.testing.assert_close(tokens[:, 1:], expected_patches, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tokens[:, 0] @ tower.proj, expected_mean, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_the_patches_of_a_siglip_come_out_as_timm_gives_them(tmp_path: Path) -> None:
    """Another normalisation of pixels and a bias on the patches are folded away without a trace."""
    siglip = make_clip(SIGLIP)
    folder = save_clip(tmp_path / "siglip", siglip, SIGLIP, SIGLIP_PIXELS)
    model = fresh(config_of(PROLIP_LIKE_SIGLIP))
    done = initialise(model, f"open_clip:{folder}")
    account(done, model)
    # ProLIP pools by its own tokens, and has no registers.
    assert {name.split(".")[2] for name in done.unused} == {"attn_pool", "reg_token"}
    assert {"visual.class_embedding", "visual.ln_pre.weight", "visual.proj"} <= set(done.fresh)
    assert model.logit_bias is not None
    assert model.logit_bias.item() == pytest.approx(siglip.logit_bias.item())

    raw = torch.rand(2, 3, 160, 160)  # in [0, 1]
    theirs = (raw - 0.5) / 0.5
    mean, std = torch.tensor(CLIP_MEAN)[:, None, None], torch.tensor(CLIP_STD)[:, None, None]
    trunk, tower = siglip.visual.trunk, model.visual
    embedded = trunk._pos_embed(trunk.patch_embed(theirs))[:, trunk.num_prefix_tokens :]
    ours = tower.conv1((raw - mean) / std).flatten(2).transpose(1, 2)
    ours = ours + tower.positional_embedding[2:]
    torch.testing.assert_close(ours, embedded, atol=1e-4, rtol=1e-4)
    expected = embedded
    for block in trunk.blocks:
        expected = block(expected)
    torch.testing.assert_close(tower.transformer(ours), expected, atol=1e-3, rtol=1e-3)


@torch.inference_mode()
def test_the_text_tower_of_a_siglip_is_taken_with_its_pieces(tmp_path: Path) -> None:
    siglip = make_clip(SIGLIP)
    folder = save_clip(tmp_path / "siglip", siglip, SIGLIP, SIGLIP_PIXELS)
    model = fresh(config_of(PROLIP_LIKE_SIGLIP))
    own = model.text.token_embedding.weight[32_000:].clone()
    done = initialise(model, f"open_clip:{folder}")
    assert done.resized["text.token_embedding.weight"] == "32,000 rows, 100 fresh"
    assert torch.equal(model.text.token_embedding.weight[32_000:], own)
    ids = torch.randint(0, 32_000, (2, 12))
    theirs = siglip.text.token_embedding(ids) + siglip.text.positional_embedding
    ours = model.text.token_embedding(ids) + model.text.positional_embedding[:12]
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        model.text.transformer(ours), siglip.text.transformer(theirs), atol=1e-4, rtol=1e-4
    )


def test_a_clip_of_another_size_gives_what_fits_and_says_the_rest(tmp_path: Path) -> None:
    clip = save_clip(tmp_path / "clip", make_clip())
    config = config_of(
        PROLIP_LIKE_CLIP,
        vision_cfg={"image_size": 48},
        text_cfg={"context_length": 12, "vocab_size": 500},
    )
    model = fresh(config)
    done = initialise(model, f"open_clip:{clip}")
    account(done, model)
    assert done.resized["visual.positional_embedding"] == "17 → 38 positions, [UNC] fresh"
    assert done.resized["text.positional_embedding"].startswith("20 → 14 positions")
    # Rows of another vocabulary are other words, whatever their number.
    assert "text.token_embedding.weight" in done.fresh
    assert "token_embedding.weight [300, 32], not [500, 32]" in "".join(done.unused)


def test_a_clip_of_which_no_block_fits_is_refused(tmp_path: Path) -> None:
    clip = save_clip(tmp_path / "clip", make_clip())
    config = config_of(
        {**PROLIP_LIKE_CLIP, "embed_dim": 24},
        vision_cfg={"width": 24, "head_width": 8},
        text_cfg={"width": 24},
    )
    with pytest.raises(CheckpointError, match="No block of"):
        initialise(fresh(config), f"open_clip:{clip}")


def test_sources_that_are_not_there_say_what_to_name(tmp_path: Path) -> None:
    model = fresh(config_of(PROLIP_LIKE_CLIP))
    with pytest.raises(EncoderNotFound, match="open_clip:NAME"):
        initialise(model, str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match="knows no architecture 'ViT-Z'"):
        initialise(model, "open_clip:ViT-Z/file.safetensors")
    with pytest.raises(ConfigError, match=r"ViT-B-16 needs weights.*laion2b_s34b_b88k"):
        initialise(model, "open_clip:ViT-B-16")
    with pytest.raises(EncoderNotFound, match="no such tag"):
        initialise(model, f"open_clip:ViT-B-16/{tmp_path}/none.safetensors")


def test_weights_of_another_architecture_name_what_does_not_fit(tmp_path: Path) -> None:
    model = fresh(config_of(PROLIP_LIKE_CLIP))
    save_file({"visual.proj": torch.zeros(3, 3)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="not of this architecture"):
        initialise(model, f"open_clip:ViT-S-32-alt/{tmp_path}/other.safetensors")
    (tmp_path / "pickle.pt").write_bytes(b"\x80\x02}")
    with pytest.raises(CheckpointError, match="nothing here reads pickles"):
        initialise(model, f"open_clip:ViT-S-32-alt/{tmp_path}/pickle.pt")
