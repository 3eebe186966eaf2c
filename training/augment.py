"""Augmentations: pure functions of a batch and a random generator.

Shapes: audio (B, S); spec (B, 1, F, T), a normalised log-mel with 100 frames per second; targets
see `Targets`. A function takes and returns just what it touches and leaves its inputs as they are.
All random numbers come from a generator on the CPU, so a batch is augmented alike on every device,
and nothing waits for the device. "Folded" weights leave the greater share to the clip itself.
"""

import copy
import math
from typing import Literal

import torch
from scipy.special import betaincinv
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from hear_ptsed.grid import SAMPLE_RATE, WINDOW_FRAMES
from training.recipe import Augment
from training.targets import Targets, blend

MASK_LEAST = 0.05  # shortest time mask, as a share of the clip
BANDS = (3, 5)  # fewest and most bands of a random filter
BAND_LEAST = 6  # mel bins of its narrowest band


def augment(
    spec: Tensor,
    targets: Targets,
    options: Augment,
    generator: Generator,
    per_db: float,
    n_frames: int | None = None,
) -> tuple[Tensor, Targets]:
    """All augmentations of spectrograms (B, 1, F, T), in the published order.

    Args:
        per_db: rise of the spectrogram per dB, see the function of this name.
        n_frames: see frame_shift.
    """
    o = options
    spec, targets = frame_shift(spec, targets, generator, o.frame_shift, n_frames)
    spec, targets = mixup(spec, targets, generator, o.mixup_p, o.mixup_alpha, o.mixup_share)
    spec = mixstyle(spec, generator, o.mixstyle_p, o.mixstyle_alpha)
    masked = o.time_mask, o.time_mask_pseudo, o.time_mask_end
    spec, targets = time_mask(spec, targets, generator, *masked)
    spec = filter_augment(spec, generator, o.filter_p, per_db, o.filter_db, o.filter_mode)
    return freq_warp(spec, generator, o.warp_p, o.warp_min), targets


def wavmix(
    audio: Tensor,
    targets: Targets,
    partner: Tensor,
    generator: Generator,
    remove_mean: Literal["all", "mixed"] = "all",
    alpha: float = 2.0,
) -> tuple[Tensor, Targets]:
    """Mixes clips with partners, weights from Beta folded; targets are mixed, not united.

    Args:
        audio: (R, S), B clips and the partners behind them; so the targets.
        partner: (B,) row that is mixed into each clip; its own: none, and the targets stay.
        remove_mean: from every clip, or only from mixed clips as the published code does, which
            gives the model two kinds of input.
    Returns:
        audio (B, S) and targets of the B clips.
    """
    n = len(partner)
    mixed = _onto(partner != torch.arange(n, device=partner.device), audio)
    share = torch.where(mixed, _partner_share(mixed, alpha, generator), 0.0)
    # Removing the mean once, from the mixture, is the same as before and after mixing.
    mixture = blend(audio[:n], audio[partner], share)
    mean = mixture.mean(-1, keepdim=True)
    if remove_mean == "mixed":
        mean = mean * mixed[:, None]
    partners = targets.map(lambda target: target[partner])
    return mixture - mean, targets.map(lambda target: target[:n]).mix(partners, share)


def frame_shift(
    spec: Tensor,
    targets: Targets,
    generator: Generator,
    range_: float = 0.125,
    n_frames: int | None = None,
) -> tuple[Tensor, Targets]:
    """Rolls each clip (B, 1, F, T) round in time.

    Args:
        range_: standard deviation, as a share of the clip.
        n_frames: of the spectrogram that the shift is drawn for, T by default; that of a teacher
            follows its student's in proportion.
    """
    n_frames = n_frames or spec.shape[-1]
    deviation = int(n_frames * range_)
    if deviation == 0:
        return spec, targets
    shift = (torch.randn(len(spec), generator=generator) * deviation).trunc()
    # 4, also for the front-ends with 998 or 1001 frames: every frame stands for 10 ms
    label_shift = (shift / round(n_frames / WINDOW_FRAMES)).round()  # half to even
    label_shift = _onto(label_shift.long(), spec)
    rolled = (None if t is None else _roll(t, label_shift) for t in (targets.strong, targets.soft))
    strong, soft = rolled
    shift = (shift * spec.shape[-1] / n_frames).round()
    return _roll(spec, _onto(shift.long(), spec)), targets._replace(strong=strong, soft=soft)


def mixup(
    spec: Tensor,
    targets: Targets,
    generator: Generator,
    p: float,
    alpha: float = 0.2,
    share: Literal["folded", "whole"] = "folded",
) -> tuple[Tensor, Targets]:
    """With probability p mixes every clip (B, ...) of the batch with another, weights from Beta.

    Args:
        share: "folded" leaves a clip at least a half of itself; "whole" 0 to 1, as EfficientSED's
            published students.
    """
    if _skip(p, generator):
        return spec, targets
    partner = _permutation(spec, generator)
    share = _partner_share(spec, alpha, generator, share)
    partners = targets.map(lambda target: target[partner])
    return blend(spec, spec[partner], share), targets.mix(partners, share)


def mixstyle(spec: Tensor, generator: Generator, p: float, alpha: float = 0.4) -> Tensor:
    """With probability p mixes the statistics of each clip's mel bins with those of another clip.

    Of spectrograms (B, 1, F, T): mean and deviation over time.
    """
    if _skip(p, generator):
        return spec
    partner = _permutation(spec, generator)
    share = _partner_share(spec, alpha, generator)
    mean = spec.mean(-1, keepdim=True)
    deviation = (spec.var(-1, keepdim=True) + 1e-6).sqrt()
    new_mean = blend(mean, mean[partner], share)
    new_deviation = blend(deviation, deviation[partner], share)
    return (spec - mean) * (new_deviation / deviation) + new_mean


def time_mask(
    spec: Tensor,
    targets: Targets,
    generator: Generator,
    max_ratio: float,
    pseudo: bool = True,
    end: bool = True,
) -> tuple[Tensor, Targets]:
    """Blanks one stretch of time in all clips (B, 1, F, T): the spectrogram's mean, no events.

    Args:
        max_ratio: bound of the stretch as a share of the clip, above 0.05; 0 for no mask.
        pseudo: mask the pseudo-labels too; the published code does not, and so teaches that
            blanked audio contains events.
        end: the stretch may reach the end of the clip; the published code never blanks its last
            frame.
    """
    if max_ratio == 0:
        return spec, targets
    n_frames, n_labels = spec.shape[-1], WINDOW_FRAMES
    least, most = int(n_labels * MASK_LEAST), int(n_labels * max_ratio)
    if not least < most <= n_labels:
        raise ValueError(
            f"time mask of at most {max_ratio} of the clip; it must be 0 (off), or at least "
            f"{(least + 1) / n_labels:g} and at most 1"
        )
    width = _randint(least, most, generator)
    start = _randint(0, n_labels - width + end, generator)

    def keep(n: int, step: int) -> Tensor:
        """(N,) bool, False within the stretch, of frames `step` times as dense as labels."""
        index = torch.arange(n, device=spec.device)
        return (index < start * step) | (index >= (start + width) * step)

    labels = keep(n_labels, 1)
    strong, soft = targets.strong, targets.soft
    if strong is not None:
        strong = strong * labels
    if pseudo and soft is not None:
        soft = soft * labels
    masked = spec * keep(n_frames, round(n_frames / n_labels))
    return masked, targets._replace(strong=strong, soft=soft)


def filter_augment(
    spec: Tensor,
    generator: Generator,
    p: float,
    per_db: float,
    db: float = 6.0,
    mode: Literal["log", "reference"] = "log",
) -> Tensor:
    """With probability p filters each clip by random gains at shared edges of 3 to 5 bands.

    Between the edges the gain in dB is linear. Spectrograms (B, 1, F, T) in and out.

    Args:
        per_db: rise of the spectrogram per dB, see the function of this name.
        db: gains are uniform in [-db, db].
        mode: "log" adds the gain to the log-mel; "reference" is the published code, which
            multiplies the normalised log-mel by 10 ** (gain / 20), a scaling around the mean, and
            whose ramps end one bin early, so that both bins at an edge have its gain.
    """
    if _skip(p, generator):
        return spec
    n_bins, held = spec.shape[2], int(mode == "reference")
    last = n_bins - 1 + held  # edge
    n_bands = _randint(BANDS[0], BANDS[1] + 1, generator)
    spare = torch.randint(last - n_bands * BAND_LEAST + 1, (n_bands - 1,), generator=generator)
    inner = spare.sort().values + BAND_LEAST * torch.arange(1, n_bands)
    edges = torch.cat([torch.tensor([0]), inner, torch.tensor([last])])
    at_edges = (2 * torch.rand(len(spec), n_bands + 1, generator=generator) - 1) * db
    bins = torch.arange(n_bins)
    band = (torch.bucketize(bins, edges, right=True) - 1).clamp(max=n_bands - 1)
    along = (bins - edges[band]) / (edges[band + 1] - edges[band] - held)
    gain = torch.lerp(at_edges[:, band], at_edges[:, band + 1], along)  # (B, F) in dB
    if held:
        return spec * _onto(10 ** (gain / 20), spec)[:, None, :, None]
    return spec + _onto(gain * per_db, spec)[:, None, :, None]


def freq_warp(spec: Tensor, generator: Generator, p: float, least: float = 0.6) -> Tensor:
    """With probability p stretches a random range of mel bins over all, (B, 1, F, T).

    Args:
        least: smallest share of the bins in that range.
    """
    if _skip(p, generator):
        return spec
    n_mels, n_frames = spec.shape[2:]
    share = least + (1 - least) * torch.rand((), generator=generator).item()
    height = int(share * n_mels)
    low = _randint(0, n_mels - height + 1, generator)
    return F.interpolate(
        spec[:, :, low : low + height], (n_mels, n_frames), mode="bicubic", align_corners=True
    )


@torch.no_grad()
def per_db(frontend: nn.Module) -> float:
    """How much a front-end's output rises per dB of level, measured with white noise."""
    frontend = copy.deepcopy(frontend).cpu().eval()  # some draw their bands in training
    noise = 0.1 * torch.randn(1, SAMPLE_RATE, generator=Generator().manual_seed(0))
    rise = (frontend(2 * noise) - frontend(noise)).median()
    return rise.item() / (20 * math.log10(2))


def _skip(p: float, generator: Generator) -> bool:
    return torch.rand((), generator=generator).item() >= p


def _randint(low: int, high: int, generator: Generator) -> int:
    return int(torch.randint(low, high, (), generator=generator))


def _onto(values: Tensor, like: Tensor) -> Tensor:
    """Moves numbers drawn on the CPU to the device without waiting for it."""
    if like.is_cuda and values.is_cpu:
        values = values.pin_memory()
    return values.to(like.device, non_blocking=True)


def _permutation(spec: Tensor, generator: Generator) -> Tensor:
    return _onto(torch.randperm(len(spec), generator=generator), spec)


def _partner_share(
    like: Tensor, alpha: float, generator: Generator, kind: str = "folded"
) -> Tensor:
    """x from Beta(alpha, alpha), (B,), by the inverse of its CDF; "folded": or 1 - x, if less."""
    uniform = torch.rand(len(like), dtype=torch.float64, generator=generator).numpy()
    x = betaincinv(alpha, alpha, uniform / 2 if kind == "folded" else uniform)
    return _onto(torch.from_numpy(x).float(), like)


def _roll(x: Tensor, shift: Tensor) -> Tensor:
    """torch.roll over the last axis, by another shift (B,) for each clip."""
    index = (torch.arange(x.shape[-1], device=x.device) - shift[:, None]) % x.shape[-1]
    return x.gather(-1, index.view(len(x), *[1] * (x.ndim - 2), -1).expand_as(x))
