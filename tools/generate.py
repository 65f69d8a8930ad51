"""Makes the committed gRPC code, and the comments for the REST documents, from `proto/`, or proves that they
are current.

python tools/generate.py              regenerate
python tools/generate.py --check      fail when regenerating would change a file, or buf finds fault
python tools/generate.py --baseline   accept the present contracts as what later ones must not break
"""

import argparse
import filecmp
import importlib.resources
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2
from grpc_tools import protoc  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
GOOGLE = ROOT / "proto-google"
BASELINE = PROTO / "baseline.binpb"
PACKAGE = "trade2026"
COMMENTS = Path("gateway_http/comments.py")
COMMENTS_HEAD = '''# ruff: noqa: E501
"""The comments of the contracts by full name. Made by tools/generate.py."""

from collections.abc import Mapping
from typing import Final

COMMENTS: Final[Mapping[str, str]] = '''
GOOGLE_PROTOS = (
    "google/api/annotations.proto",
    "google/api/http.proto",
    "google/rpc/status.proto",
    "google/type/decimal.proto",
)


def copy_google_protos() -> None:
    """buf takes modules inside the repository only, and a link would clash with its well-known types."""
    for name in GOOGLE_PROTOS:
        package, _, file = name.rpartition("/")
        target = GOOGLE / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((importlib.resources.files(package.replace("/", ".")) / file).read_bytes())


def generate(into: Path) -> None:
    """Runs protoc with the mypy plug-ins and writes the comments; raises `SystemExit` when it fails."""
    with tempfile.NamedTemporaryFile(suffix=".binpb") as image:
        run_protoc(into, Path(image.name))
        files = descriptor_pb2.FileDescriptorSet.FromString(image.read())
    for version in {path.parent for path in (into / PACKAGE).rglob("*_pb2.py")}:
        (version / "__init__.py").touch()
        (version.parent / "__init__.py").touch()
    write_comments(files, into / COMMENTS)


def run_protoc(into: Path, image: Path) -> None:
    """Writes the code below `into` and the descriptors with their comments to `image`."""
    sources = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    well_known = Path(str(importlib.resources.files("grpc_tools"))) / "_proto"
    status = protoc.main(
        [
            "protoc",
            f"--proto_path={PROTO}",
            f"--proto_path={GOOGLE}",
            f"--proto_path={well_known}",
            f"--plugin=protoc-gen-mypy={Path(sys.executable).parent / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={Path(sys.executable).parent / 'protoc-gen-mypy_grpc'}",
            f"--python_out={into}",
            f"--grpc_python_out={into}",
            f"--mypy_out=quiet:{into}",
            f"--mypy_grpc_out=quiet:{into}",
            f"--descriptor_set_out={image}",
            "--include_source_info",
            *sources,
        ]
    )
    if status:
        raise SystemExit("protoc failed; see its messages above")


def write_comments(files: descriptor_pb2.FileDescriptorSet, into: Path) -> None:
    """Generated code drops the comments, which the REST documents show: a module of its own keeps them."""
    comments: dict[str, str] = {}
    for file in files.file:
        leading = {
            tuple(location.path): location.leading_comments for location in file.source_code_info.location
        }
        for path, name in named(file):
            text = "\n".join(line.strip() for line in leading.get(path, "").splitlines()).strip()
            if text:
                comments[name] = text
    entries = json.dumps(comments, indent=4, sort_keys=True, ensure_ascii=False)
    formatted = subprocess.run(
        [Path(sys.executable).parent / "ruff", "format", "--config", ROOT / "pyproject.toml", "-"],
        input=f"{COMMENTS_HEAD}{entries}\n",
        text=True,
        capture_output=True,
        check=True,
    ).stdout
    into.parent.mkdir(parents=True, exist_ok=True)
    into.write_text(formatted)


def named(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[tuple[int, ...], str]]:
    """Source path and full name of everything in a file; a value is named after its enum."""
    proto = descriptor_pb2.FileDescriptorProto
    for index, message in enumerate(file.message_type):
        path = (proto.MESSAGE_TYPE_FIELD_NUMBER, index)
        yield from named_in_message(message, path, f"{file.package}.{message.name}")
    for index, enum in enumerate(file.enum_type):
        path = (proto.ENUM_TYPE_FIELD_NUMBER, index)
        yield from named_in(enum, path, f"{file.package}.{enum.name}", "value")
    for index, service in enumerate(file.service):
        path = (proto.SERVICE_FIELD_NUMBER, index)
        yield from named_in(service, path, f"{file.package}.{service.name}", "method")


def named_in_message(
    message: descriptor_pb2.DescriptorProto, path: tuple[int, ...], name: str
) -> Iterator[tuple[tuple[int, ...], str]]:
    kind = descriptor_pb2.DescriptorProto
    yield from named_in(message, path, name, "field")
    for index, inner in enumerate(message.nested_type):
        inner_path = (*path, kind.NESTED_TYPE_FIELD_NUMBER, index)
        yield from named_in_message(inner, inner_path, f"{name}.{inner.name}")
    for index, enum in enumerate(message.enum_type):
        enum_path = (*path, kind.ENUM_TYPE_FIELD_NUMBER, index)
        yield from named_in(enum, enum_path, f"{name}.{enum.name}", "value")


def named_in(
    parent: Any, path: tuple[int, ...], name: str, member: str
) -> Iterator[tuple[tuple[int, ...], str]]:
    """The parent and its members, which stand in its repeated field `member`."""
    yield path, name
    number = parent.DESCRIPTOR.fields_by_name[member].number
    for index, one in enumerate(getattr(parent, member)):
        yield (*path, number, index), f"{name}.{one.name}"


def generated_files(root: Path) -> list[Path]:
    """Paths of the generated code below `root`, relative to it."""
    code = [path for path in (root / PACKAGE).rglob("*_pb2*.py*") if path.suffix != ".pyc"]
    return sorted(path.relative_to(root) for path in (*code, *root.glob(str(COMMENTS))))


def buf(*arguments: str) -> None:
    subprocess.run([Path(sys.executable).parent / "buf", *arguments], cwd=ROOT, check=True)


def check() -> None:
    buf("lint")
    buf("breaking", "proto", "--against", str(BASELINE.relative_to(ROOT)))
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        generate(fresh)
        if generated_files(fresh) != generated_files(ROOT):
            raise SystemExit("the set of generated files has changed: run `make proto` and commit the result")
        for name in generated_files(fresh):
            if not filecmp.cmp(fresh / name, ROOT / name, shallow=False):
                raise SystemExit(f"{name} is not current: run `make proto` and commit the result")
    print(f"generated code is current: {len(generated_files(ROOT))} files")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="change nothing; fail when something is not current"
    )
    parser.add_argument(
        "--baseline", action="store_true", help="accept the present contracts as the baseline"
    )
    arguments = parser.parse_args()
    copy_google_protos()
    if arguments.check:
        check()
        return
    generate(ROOT)
    if arguments.baseline:
        buf("build", "proto", "--output", str(BASELINE.relative_to(ROOT)))


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"{Path(error.cmd[0]).name} {error.cmd[1]} failed") from None
