"""Small tables with the columns of the public ones; the numbers are made up."""

from typing import Any

import pandas as pd


def mobile_operators() -> pd.DataFrame:
    """Two phones, two networks; the first convolution is in both of them."""
    rows = [
        ("net", 0, "conv_2d", 226, 3, 112, 32, 3, 2, 1, 1, "relu"),
        ("net", 1, "depthwise_conv_2d", 114, 32, 112, 32, 3, 1, 32, 1, ""),
        ("net", 2, "mean", 112, 32, 1, 32, None, None, None, 1, ""),
        ("net", 3, "fully_connected", 1, 32, 1, 10, None, None, None, 1, ""),
        ("other", 0, "conv_2d", 226, 3, 112, 32, 3, 2, 1, 1, "relu"),
        ("other", 1, "conv_2d_group", 58, 32, 56, 64, 3, 1, 4, 1, "add+relu"),
        ("other", 2, "concatenation", 56, 32, 56, 64, None, None, None, 2, ""),
        ("other", 3, "average_pool_2d", 7, 64, 1, 64, 7, 1, None, 1, ""),
    ]
    names = (
        "network", "op_index", "op_type", "in_hw", "in_ch", "out_hw", "out_ch", "kernel_hw",
        "stride", "groups", "n_inputs", "fused_ops",
    )  # fmt: skip
    phones = []
    for phone, factor in (("phone", 1.0), ("tablet", 2.0)):
        table = pd.DataFrame(rows, columns=names).astype(
            dict.fromkeys(("kernel_hw", "stride", "groups"), "Int32")
        )
        phones.append(
            table.assign(
                device=phone, device_name=f"A {phone}", runtime="tflite", delegate="gpu",
                precision="fp16", batch=1, kernel_name="chosen", kernel_family="chosen",
                latency_s=[factor * s * 1e-4 for s in (3, 2, 1, 1, 3.3, 4, 1, 1)],
            )
        )  # fmt: skip
    return pd.concat(phones, ignore_index=True).astype({"device": "category"})


def mobile_networks() -> pd.DataFrame:
    """The same networks on the phone's GPU and on two of its cores."""
    settings = (("gpu", "gpu", "fp16", None), ("cpu", "2large", "int8", 2))
    rows = [
        {
            "device": "phone", "device_name": "A phone", "runtime": "tflite", "delegate": delegate,
            "precision": precision, "core_set": cores, "cores_large": threads or 0,
            "cores_medium": 0, "cores_small": 0, "threads": threads, "batch": 1, "network": name,
            "flops": 1, "size_bytes": 1, "latency_s": seconds, "latency_std_s": seconds / 50,
        }
        for delegate, cores, precision, threads in settings
        for name, seconds in (("net", 2e-3), ("other", 3e-3))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def convolutions() -> pd.DataFrame:
    """A convolution with and without a fused sum, a depthwise one, and one that failed."""
    return pd.DataFrame(
        {
            "device": "card", "device_name": "A card", "runtime": "tensorrt",
            "precision": ["fp16", "fp16", "int8", "fp32"], "config_id": [0, 1, 2, 3],
            "op_type": ["conv_2d", "conv_2d", "depthwise_conv_2d", "conv_2d"], "batch": 32,
            "in_ch": [64, 64, 64, 64], "in_h": 15, "in_w": 15, "out_ch": [128, 128, 64, 128],
            "kernel_hw": 3, "stride": 2, "groups": [1, 1, 64, 1],
            "elementwise_fused": [False, True, False, False],
            "status": ["ok", "ok", "ok", "failed"], "latency_s": [1e-4, 1.1e-4, 5e-5, None],
        }
    )  # fmt: skip


def architectures(**changes: Any) -> pd.DataFrame:
    """Two architectures on a card with a batch and on a phone without one."""
    table = pd.DataFrame(
        {
            "device": ["card", "card", "phone", "phone"], "device_name": ["A card"] * 4,
            "device_class": ["gpu", "gpu", "mobile", "mobile"], "batch": [32, 32, None, None],
            "source_key": "key", "arch_index": [0, 1, 0, 1], "arch": ["|a|", "|b|", "|a|", "|b|"],
            "latency_s": [1e-2, 2e-2, 3e-2, 4e-2],
            "latency_resolution_s": [None, None, 1e-3, 1e-3],
        }
    )  # fmt: skip
    return table.astype({"batch": "Int32"}).assign(**changes)


def transformers() -> pd.DataFrame:
    """Two architectures; the parts are in no order."""
    rows = [
        (1, "decoder", 4.0, 0.3), (0, "encoder", 1.0, 0.3), (0, "decoder", 2.0, 0.4),
        (1, "encoder", 3.0, 0.4),
    ]  # fmt: skip
    return pd.DataFrame(
        [
            {
                "device": "board", "device_name": "A board", "runtime": "pytorch",
                "precision": "fp32", "task": "wmt", "sequence_length": 30, "arch_index": index,
                "part": part, "encoder_embed_dim": 512, "decoder_embed_dim": 640,
                "latency_s": seconds, "latency_std_s": spread,
            }
            for index, part, seconds, spread in rows
        ]
    )  # fmt: skip
