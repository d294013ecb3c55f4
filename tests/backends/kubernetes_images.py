"""The images of the test cluster, made from busybox alone in the format that `ctr images import` reads."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

from backends.base import MissingBackendError

BUSYBOX = Path("/bin/busybox")
APP, PAUSE = "docker.io/local/app:1", "docker.io/local/pause:1"
APPLETS = (
    "cat",
    "date",
    "echo",
    "false",
    "head",
    "httpd",
    "kill",
    "mkdir",
    "rm",
    "seq",
    "sh",
    "sleep",
    "tail",
    "test",
    "touch",
    "true",
    "wget",
)
PAUSE_COMMAND = "trap 'exit 0' TERM INT; while :; do sleep 3600 & wait $!; done"
_DYNAMIC_LOADER = b"/lib64/ld-linux"


def write_archive(path: Path) -> None:
    """Write both images into one archive; raises MissingBackendError without a static busybox."""
    layer = _layer()
    files = {f"{hashlib.sha256(layer).hexdigest()}.tar": layer}
    layers = list(files)
    manifest = []
    for name, command in ((APP, "sleep 3600"), (PAUSE, PAUSE_COMMAND)):
        config = _config(layer, command)
        config_name = f"{hashlib.sha256(config).hexdigest()}.json"
        files[config_name] = config
        manifest.append({"Config": config_name, "RepoTags": [name], "Layers": layers})
    files["manifest.json"] = json.dumps(manifest).encode()
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            _add(archive, name, content)


def _config(layer: bytes, command: str) -> bytes:
    found = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/bin/sh", "-c", command], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    return json.dumps(found, sort_keys=True).encode()


def _layer() -> bytes:
    try:
        program = BUSYBOX.read_bytes()
    except OSError as error:
        raise MissingBackendError("busybox-static is not installed") from error
    if _DYNAMIC_LOADER in program[:4096]:
        raise MissingBackendError("/bin/busybox is not static: busybox-static is needed")
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for folder in ("bin", "tmp"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        _add(archive, "bin/busybox", program, mode=0o755)
        for applet in APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
    return stream.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes, *, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))
