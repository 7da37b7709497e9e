"""Baseline of benchmarks.job: the job as one would write it without vista, from Ray Data, timm and transformers.

    python -m benchmarks.obvious CATALOG.parquet WEIGHTS.safetensors TEXT_FOLDER DB

It pads batches and writes once, at the end. Its vectors are the same, in float32, but it has none of vista's
guarantees: a bad image aborts the run, a crash loses all work, and a second run embeds everything again. The catalog
has the columns id, text and image.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from PIL import Image

BATCH = 32
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def preprocess(batch: dict[str, Any]) -> dict[str, Any]:
    """Image bytes to normalised pixels; a record without an image gets zeros."""
    import torchvision.transforms as T

    transform = T.Compose(
        [
            T.Resize(224, interpolation=T.InterpolationMode.BICUBIC),
            T.CenterCrop(224),
            T.ToTensor(),
            T.Normalize(MEAN, STD),
        ]
    )
    blank = np.zeros((3, 224, 224), np.float32)
    pixels = [
        transform(Image.open(io.BytesIO(data)).convert("RGB")).numpy() if data else blank for data in batch["image"]
    ]
    return {
        "id": batch["id"],
        "text": batch["text"],
        "has_image": np.array([bool(data) for data in batch["image"]]),
        "pixels": np.stack(pixels),
    }


class Model:
    """Visualized-BGE (base) built from modules of timm and transformers."""

    def __init__(self, weights: str, text_folder: str) -> None:
        import timm
        import torch
        from safetensors.torch import load_file
        from transformers import AutoTokenizer, BertConfig, BertModel

        torch.set_num_threads(os.cpu_count() or 1)
        state = load_file(weights)
        self.tokenizer = AutoTokenizer.from_pretrained(text_folder)
        self.bert: Any = BertModel(BertConfig.from_pretrained(text_folder), add_pooling_layer=False)
        self.bert.eval()  # type: ignore[no-untyped-call]
        bert = {key.removeprefix("bge_"): value for key, value in state.items() if key.startswith("bge_e")}
        self.bert.load_state_dict(bert, strict=True)
        self.vit: Any = timm.create_model("eva02_base_patch16_clip_224", num_classes=0)
        self.vit.eval()
        self.vit.norm = torch.nn.Identity()
        names = {"inner_attn_ln": "norm", "q_bias": "q_proj.bias", "v_bias": "v_proj.bias"}
        names |= {"mlp.w1": "mlp.fc1_g", "mlp.w2": "mlp.fc1_x", "mlp.w3": "mlp.fc2", "ffn_ln": "norm"}
        vision = {}
        for key, value in state.items():
            if key.startswith("model_visual.visual.") and "rope" not in key:
                name = key.removeprefix("model_visual.visual.")
                for released, theirs in names.items():
                    name = name.replace(released, theirs)
                vision[name] = value
        self.vit.load_state_dict({key: vision[key] for key in self.vit.state_dict() if key in vision}, strict=True)
        self.proj = torch.nn.Linear(768, 768)
        self.proj.load_state_dict({"weight": state["visual_proj.weight"], "bias": state["visual_proj.bias"]})

    def __call__(self, batch: dict[str, Any]) -> pa.Table:
        """A vector for each record; records with and without an image are encoded apart."""
        import torch

        vectors = np.zeros((len(batch["id"]), 768), np.float32)
        for with_image in (True, False):
            rows = np.flatnonzero(batch["has_image"] == with_image)
            if len(rows):
                texts = [batch["text"][row] or "" for row in rows]
                pixels = torch.from_numpy(batch["pixels"][rows]) if with_image else None
                with torch.inference_mode():
                    vectors[rows] = self.encode(texts, pixels).numpy()
        flat = pa.array(vectors.reshape(-1))
        return pa.table({"id": batch["id"], "vector": pa.FixedSizeListArray.from_arrays(flat, 768)})

    def encode(self, texts: list[str], pixels: Any) -> Any:
        """Encode texts, padded to the longest one, with pixels [B, 3, 224, 224] or None, to vectors [B, 768]."""
        import torch

        limit = 512 if pixels is None else 316
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=limit, return_tensors="pt")
        mask, embeddings = tokens["attention_mask"], self.bert.embeddings
        if pixels is None:
            hidden = self.bert(**tokens).last_hidden_state
        else:
            positions = torch.arange(tokens["input_ids"].shape[1])
            positions[1:] += 196
            words = embeddings(tokens["input_ids"], position_ids=positions[None])
            image = self.proj(self.vit.forward_features(pixels)[:, 1:]) + embeddings.position_embeddings.weight[1:197]
            image = embeddings.LayerNorm(image)  # image tokens have no token type
            hidden = torch.cat([words[:, :1], image, words[:, 1:]], 1)
            mask = torch.cat([mask[:, :1], torch.ones(len(texts), 196, dtype=mask.dtype), mask[:, 1:]], 1)
            hidden = self.bert.encoder(hidden, attention_mask=mask[:, None, None].bool()).last_hidden_state
        return torch.nn.functional.normalize(hidden[:, 0], dim=-1)


def main(catalog: str, weights: str, text_folder: str, db: str) -> None:
    """Embed a catalog into a Lance table; prints the seconds taken."""
    import lance_ray

    started = time.perf_counter()
    ray.init(log_to_driver=False)
    vectors = (
        ray.data.read_parquet(catalog, columns=["id", "text", "image"])
        .map_batches(preprocess, batch_size=BATCH)
        .map_batches(Model, batch_size=BATCH, concurrency=1, num_cpus=1, fn_constructor_args=(weights, text_folder))
    )
    lance_ray.write_lance(vectors, f"{db}/obvious.lance", mode="overwrite")
    print(json.dumps(time.perf_counter() - started))


if __name__ == "__main__":
    main(*sys.argv[1:])
