"""Files of tensors: a flat dictionary name -> tensor with a description, torch or safetensors.

A .pt file stays a flat dictionary of tensors for every other reader, because the description is an
attribute of that dictionary; in a .safetensors file it is an entry of the header. Damage that a
parser would not notice is noticed: a .pt file has checksums, as every zip file, and a .safetensors
file of ours has one of names, types, shapes, values and description in its header.
"""

import argparse
import json
import re
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hear_ptsed.errors import few, one_line, shown
from hear_ptsed.files import atomic

METADATA = "hear_ptsed"  # attribute of the dictionary in a .pt file, entry in a safetensors header
CHECKSUM = f"{METADATA}_crc32"  # entry in a safetensors header
NESTED = ("state_dict", "model", "teacher", "student")  # where files keep the dictionary, by rank
SUFFIXES = (".pt", ".safetensors")
TORCH = (b"PK", b"\x80")  # the first bytes of a zip archive, or of a pickle as torch once wrote


def begins_checkpoint(start: bytes) -> bool:
    """Whether the first bytes of a file, 9 or more, are those of a torch or safetensors file."""
    return start.startswith(TORCH) or start[8:9] == b"{"


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The dictionary of tensors in a file of any accepted kind, and our own description if any."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the path of a checkpoint")
    with path.open("rb") as file:
        start = file.read(16)
    torch_file, zipped = start.startswith(TORCH), start.startswith(b"PK")
    if not begins_checkpoint(start):
        what = f"begins with {start!r}" if start else "is empty"
        raise ValueError(f"{path}: no checkpoint, it {what}; expected a torch or safetensors file")
    try:
        if not torch_file:
            return _read_safetensors(path)
        if zipped:
            _check_zip(path)
        # Upstream files carry their training options in this class, which only holds attributes.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except ImportError:
        raise
    except Exception as error:  # whatever a parser trips over in damaged bytes
        if called := re.search(r"GLOBAL (\S+)", str(error)):
            raise ValueError(
                f"{path}: refused and not run, its pickle calls {called[1]}; only tensors and "
                "plain containers are read: save the weights alone, as a dictionary name -> tensor"
            ) from error
        why = one_line(error)[:120]
        raise ValueError(
            f"{path}: cut off, damaged or no checkpoint; delete it and fetch it again ({why})"
        ) from error
    return _flat(content, path), getattr(content, METADATA, {})


def _check_zip(path: Path) -> None:
    """Compare what torch reads without looking at its checksums; 0 is one that was not computed."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.CRC:
                with archive.open(member) as file:
                    while file.read(1 << 20):
                        pass


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with _safetensors().safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    description = metadata.get(METADATA, "{}")
    if CHECKSUM in metadata and metadata[CHECKSUM] != _crc32(tensors, description):
        raise ValueError(f"its {CHECKSUM} is of other content")
    return tensors, json.loads(description)


def _crc32(tensors: Mapping[str, Tensor], description: str) -> str:
    """Of all that a file tells: 0.1 s for 350 MB."""
    crc = zlib.crc32(description.encode())
    for name in sorted(tensors):
        value = tensors[name]
        crc = zlib.crc32(f"{name} {value.dtype} {tuple(value.shape)}".encode(), crc)
        crc = zlib.crc32(value.reshape(-1).view(torch.uint8).numpy(), crc)
    return f"{crc:08x}"


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError("safetensors files need the package: pip install safetensors") from error
    return safetensors


def _flat(content: Any, path: Path) -> dict[str, Any]:
    holds = f"a {type(content).__name__}"
    if isinstance(content, Mapping):
        flat = any(isinstance(value, Tensor) for value in content.values())
        levels = [content] if flat else [content.get(name) for name in NESTED]
        if level := next((level for level in levels if isinstance(level, Mapping)), None):
            if strange := [name for name in level if not isinstance(name, str)]:
                raise ValueError(f"{path} names a tensor {shown(strange[0])}; names are text")
            return dict(level)
        holds = f"a dictionary of {few([shown(name) for name in content])}"
    raise ValueError(
        f"{path} holds {holds}; expected a dictionary of tensors, or one under {', '.join(NESTED)}"
    )


def write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write tensors (name: tensor) to a file of the kind that its suffix names, all or nothing."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: unknown suffix {path.suffix!r}; use .pt or .safetensors")
    # Own memory for each: safetensors refuses shared storage, and torch would store all of it.
    state = OrderedDict(
        (name, value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format))
        for name, value in tensors.items()
    )
    with atomic(path) as temporary:
        if path.suffix == ".pt":
            setattr(state, METADATA, metadata)
            torch.save(state, temporary)
        else:
            text = json.dumps(metadata)
            header = {METADATA: text, CHECKSUM: _crc32(state, text)}
            _safetensors().torch.save_file(state, temporary, header)
