"""YAMNet's network, on the grid of all models: a patch of 0.975 s centred on each 40 ms frame."""

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hear_ptsed.backbones.base import Backbone
from hear_ptsed.frontends.base import FrontEnd
from hear_ptsed.frontends.kaldi import N_FFT, mel_bank
from hear_ptsed.grid import FBANK, FRAME, SPEC_HOP, WINDOW_FRAMES, n_frames
from hear_ptsed.heads import LinearHead
from hear_ptsed.model import Output, SEDModel, Step, float32
from hear_ptsed.windows import check_audio

# stride and output channels of the 13 blocks (depthwise 3x3, pointwise) behind the first conv
BLOCKS = ((1, 64), (2, 128), (1, 128), (2, 256), (1, 256), (2, 512)) + 5 * ((1, 512),)
BLOCKS += ((2, 1024), (1, 1024))
N_CLASSES = 521

N_MELS = 64
PATCH, FRAME_HOP = 96, FRAME // SPEC_HOP  # mel frames
PATCH_SAMPLES = (PATCH - 1) * SPEC_HOP + FBANK  # 15,600: 0.975 s
# samples in front that put the centre of patch i on that of the i-th 40 ms frame
FRONT_PADDING = (PATCH_SAMPLES - FRAME) // 2
MEL_CHUNK = 16_384  # mel frames per FFT call: bounds memory on long audio
CHUNK_FRAMES = 1500  # 60 s of long audio at a time
CONTEXT_FRAMES = 13  # the reach of a patch beyond its frame


class LogMel(FrontEnd):
    """Natural logarithm of mel magnitudes, with as many frames as lie within the audio."""

    def __init__(self) -> None:
        super().__init__()
        window = torch.hann_window(FBANK, periodic=True, dtype=torch.float64).float()
        self.register_buffer("window", window, persistent=False)
        bank = mel_bank(125.0, 7500.0, N_MELS, dtype=torch.float64)
        self.register_buffer("mel", bank.T.float().contiguous(), persistent=False)  # (257, 64)

    def spectrogram(self, audio: Tensor) -> Tensor:
        """(B, S) -> (B, 64, F)."""
        frames = audio.unfold(-1, FBANK, SPEC_HOP)  # (B, F, 400), a view
        if torch.compiler.is_exporting():  # for any batch
            return self.log_mel(frames).mT
        chunks = frames.split(max(1, MEL_CHUNK // len(audio)), dim=1)
        return torch.cat([self.log_mel(chunk) for chunk in chunks], dim=1).mT

    def log_mel(self, frames: Tensor) -> Tensor:
        """(B, F, 400) -> (B, F, 64)."""
        magnitude = torch.fft.rfft(frames * self.window, n=N_FFT).abs()
        return torch.log(magnitude @ self.mel + 0.001)


class MobileNet(Backbone):
    """Embeds patches of 96 mel frames, each by itself and never in bfloat16.

    Batch norms are folded into the convolutions, so this network is for inference only.
    """

    bfloat16 = False
    no_choice = "yamnet has no blocks to choose"
    embed_dim = BLOCKS[-1][1]
    window_frames = WINDOW_FRAMES
    batch = 64  # patches per call: more of them fall out of a CPU's caches

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(1, 32, 3, stride=2)])
        width = 32
        for stride, out in BLOCKS:
            self.convs.append(nn.Conv2d(width, width, 3, stride, padding=2 - stride, groups=width))
            self.convs.append(nn.Conv2d(width, out, 1))
            width = out
        for conv in self.convs:  # activations keep their size through all 27 layers
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)
        self.to(memory_format=torch.channels_last)

    def forward(self, spec: Tensor) -> Tensor:
        """Log-mel (B, 1, 64, F) -> (B, T, 1024), not negative: a patch every 40 ms."""
        return self.embed_patches(spec, FRAME_HOP)

    def embed_patches(self, spec: Tensor, hop: int) -> Tensor:
        """Log-mel (B, 1, 64, F) -> (B, P, 1024): a patch every `hop` mel frames, originally 48."""
        patches = spec[:, 0].mT.unfold(1, PATCH, hop).mT  # (B, P, 96, 64), a view
        n_clips, n_patches = patches.shape[:2]
        if torch.compiler.is_exporting():  # for any batch
            return self.embed_batch(patches.flatten(0, 1)).unflatten(0, (n_clips, n_patches))
        # Indexed, not flattened: overlapping patches would copy the log-mel 24 times over.
        places = torch.arange(n_clips * n_patches, device=spec.device)
        embeddings = spec.new_empty(len(places), self.embed_dim)
        with torch.autocast(spec.device.type, enabled=False):
            for batch in places.split(self.batch):
                clips, starts = batch // n_patches, batch % n_patches
                embeddings[batch] = self.embed_batch(patches[clips, starts])
        return embeddings.unflatten(0, (n_clips, n_patches))

    def embed_batch(self, patches: Tensor) -> Tensor:
        """(N, 96, 64) -> (N, 1024) float32."""
        x = patches[:, None]
        for conv in self.convs:
            if conv.stride == (2, 2):  # TensorFlow's "same" for even sizes: nothing in front
                x = F.pad(x, (0, 1, 0, 1))
            x = F.relu_(conv(x))
        return x.mean((2, 3))

    def compile(self, **options: bool) -> None:
        """A ValueError: every number of patches would be compiled anew."""
        raise ValueError("yamnet cannot be compiled: leave out compile")


class YamNet(SEDModel):
    """YAMNet with random weights, in evaluation mode; for inference only.

    It takes clips of any length. Clips never influence each other. Gradients reach the audio; for
    those of the weights, say requires_grad_().
    """

    reach = CONTEXT_FRAMES

    def __init__(self) -> None:
        with float32():
            head = LinearHead(MobileNet.embed_dim, N_CLASSES)
            head.weak_head = None
            super().__init__(LogMel(), MobileNet(), head=head)
        self.folded = True
        self.requires_grad_(False).eval()

    def forward(self, audio: Tensor) -> Output:
        """Logits and embeddings on the grid of all models; of clips it has none.

        Args:
            audio: (B, S) in [-1, 1] at 16 kHz; bad audio is a ValueError or TypeError.
        Returns:
            strong (B, 521, T), weak None, frames (B, T, 1024) float32; T = n_frames(S)
        """
        frames = self.embed(audio)
        with torch.autocast(audio.device.type, enabled=False):
            strong, weak = (None, None) if self.head is None else self.head(frames)
        return Output(strong, weak, frames)

    def embed(self, audio: Tensor) -> Tensor:
        """audio (B, S) at 16 kHz -> (B, n_frames(S), 1024) float32."""
        check_audio(audio)
        n_samples = (n_frames(audio.shape[1]) - 1) * FRAME + PATCH_SAMPLES
        padded = F.pad(audio, (FRONT_PADDING, n_samples - FRONT_PADDING - audio.shape[1]))
        return self.backbone(self.frontend(padded))

    def over(self, audio: Tensor, step: Step, overlap_s: float = 0.0, batch: int = 8) -> Tensor:
        """Run a step over clips (B, S) of any length -> (B, n_frames(S), D): 60 s at a time, which
        gives the same as one piece.

        A piece brings the context that its frames see, so `overlap_s` and `batch` change nothing.
        """
        pieces = []
        for first in range(0, n_frames(audio.shape[1]), CHUNK_FRAMES):
            before = min(first, CONTEXT_FRAMES)
            end = (first + CHUNK_FRAMES + CONTEXT_FRAMES) * FRAME
            frames = step(audio[:, (first - before) * FRAME : end])
            pieces.append(frames[:, before : before + CHUNK_FRAMES])
        return torch.cat(pieces, 1)

    def over_clips(
        self, clips: Iterable[Tensor], step: Step, overlap_s: float = 0.0, batch: int = 8
    ) -> Iterator[Tensor]:
        """`over` of clips (S,) one by one: (n_frames(S), D) each; it has no windows to share."""
        return (self.over(clip[None], step, overlap_s, batch)[0] for clip in clips)
