"""What BEST-RQ predicts: the code of each stack of frames (arXiv 2202.01855, section 3.1)."""

from __future__ import annotations

import hashlib

import torch

from speechbrain_pom.utils.errors import UserError


def stack_frames(feats: torch.Tensor, stride: int = 4) -> torch.Tensor:
    """Concatenate each ``stride`` consecutive frames.

    Arguments
    ---------
    feats : torch.Tensor
        (B, T, F) features, T a multiple of ``stride`` (see `pad_to_multiple`).
    stride : int
        Frames in a stack.

    Returns
    -------
    torch.Tensor
        (B, T / stride, stride * F)

    Raises
    ------
    UserError
        If T is not a multiple of ``stride``.

    Example
    -------
    >>> stack_frames(torch.rand(2, 8, 80)).shape
    torch.Size([2, 2, 320])
    """
    num_utterances, num_frames, num_features = feats.shape
    if num_frames % stride != 0:
        raise UserError(
            f"{num_frames} frames cannot be stacked by {stride}: pad them with pad_to_multiple"
        )
    return feats.reshape(num_utterances, num_frames // stride, stride * num_features)


@torch.no_grad()
def nearest_codes(
    stacked: torch.Tensor,
    projection: torch.Tensor,
    codebook: torch.Tensor,
    max_elements: int = 2**22,
) -> torch.Tensor:
    """Find the code nearest to each projected stack of frames, by angle.

    For unit vectors the nearest code is the one with the largest dot product, and the norm of the
    projected frame does not matter: this gives the codes of SpeechBrain's
    `RandomProjectionQuantizer` without its (codes x frames x dim) differences.

    Computed in float64 (float32 where the device has no float64): SpeechBrain allows TF32 for
    float32 products on GPUs, and rounding that depends on the size of the batch would make a
    frame's code depend on its partners.

    Arguments
    ---------
    stacked : torch.Tensor
        (..., in) stacked frames.
    projection : torch.Tensor
        (in, dim) frozen random projection (``P`` of the quantizer).
    codebook : torch.Tensor
        (V, dim) frozen random codes (``CB`` of the quantizer).
    max_elements : int
        Number of (frame, code) products that are held at a time; 2**22 take 32 MiB.

    Returns
    -------
    torch.Tensor
        (...) codes, int64.

    Example
    -------
    >>> from speechbrain.nnet.quantisers import RandomProjectionQuantizer
    >>> quantizer = RandomProjectionQuantizer(320, 16, 64)
    >>> stacked = torch.rand(2, 25, 320)
    >>> codes = nearest_codes(stacked, quantizer.P, quantizer.CB)
    >>> torch.equal(codes, quantizer(stacked))
    True
    """
    dtype = torch.float32 if stacked.device.type == "mps" else torch.float64
    projection = projection.to(dtype)
    codes_t = torch.nn.functional.normalize(codebook.to(dtype), dim=-1).T
    frames = stacked.reshape(-1, stacked.shape[-1])
    nearest = torch.empty(len(frames), dtype=torch.int64, device=stacked.device)
    chunk = max(1, max_elements // codebook.shape[0])
    # Autocast leaves float64 alone; it has to be told so for float32.
    with torch.autocast(stacked.device.type, enabled=False):
        for start in range(0, len(frames), chunk):
            projected = frames[start : start + chunk].to(dtype) @ projection
            nearest[start : start + chunk] = (projected @ codes_t).argmax(dim=-1)
    return nearest.reshape(stacked.shape[:-1])


def apply_noise(feats: torch.Tensor, mask: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Replace the masked frames by noise.

    Arguments
    ---------
    feats : torch.Tensor
        (B, T, F) features; left unchanged.
    mask : torch.Tensor
        (B, T) boolean, True = masked.
    noise : torch.Tensor
        (B, T, F) noise (paper: mean 0, standard deviation 0.1).

    Returns
    -------
    torch.Tensor
        (B, T, F), of the type of ``feats``.

    Raises
    ------
    UserError
        If the shapes do not fit.

    Example
    -------
    >>> mask = torch.tensor([[False, True]])
    >>> apply_noise(torch.ones(1, 2, 3), mask, torch.zeros(1, 2, 3))
    tensor([[[1., 1., 1.],
             [0., 0., 0.]]])
    """
    if mask.shape != feats.shape[:2] or noise.shape != feats.shape:
        raise UserError(
            f"mask {tuple(mask.shape)} and noise {tuple(noise.shape)} do not fit features"
            f" {tuple(feats.shape)}: pad all three to the same number of frames"
        )
    return torch.where(mask.unsqueeze(-1), noise.to(feats.dtype), feats)


def quantizer_fingerprint(quantizer: torch.nn.Module) -> str:
    """Hash a frozen quantizer, so that a resumed run can check that it has the same targets.

    Arguments
    ---------
    quantizer : torch.nn.Module
        With buffers ``P`` (in, dim) and ``CB`` (V, dim), as SpeechBrain's
        `RandomProjectionQuantizer`.

    Returns
    -------
    str
        SHA-256 of both shapes and float32 values, in hexadecimal.

    Example
    -------
    >>> from speechbrain.nnet.quantisers import RandomProjectionQuantizer
    >>> len(quantizer_fingerprint(RandomProjectionQuantizer(320, 16, 64)))
    64
    """
    digest = hashlib.sha256()
    for table in (quantizer.P, quantizer.CB):
        values = table.detach().to("cpu", torch.float32).contiguous()
        digest.update(repr(tuple(values.shape)).encode())
        digest.update(values.numpy().astype("<f4").tobytes())
    return digest.hexdigest()
