"""Makes the committed gRPC code from `proto/`, or proves that it is current.

python tools/generate.py              regenerate
python tools/generate.py --check      fail when regenerating would change a file, or buf finds fault
python tools/generate.py --baseline   accept the present contracts as what later ones must not break
"""

import argparse
import filecmp
import importlib.resources
import subprocess
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
GOOGLE = ROOT / "proto-google"
BASELINE = PROTO / "baseline.binpb"
PACKAGE = "trade2026"
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
    """Runs protoc with the mypy plug-ins; raises `SystemExit` when it fails."""
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
            *sources,
        ]
    )
    if status:
        raise SystemExit("protoc failed; see its messages above")
    for version in {path.parent for path in (into / PACKAGE).rglob("*_pb2.py")}:
        (version / "__init__.py").touch()
        (version.parent / "__init__.py").touch()


def generated_files(root: Path) -> list[Path]:
    """Paths of the generated code below `root`, relative to it."""
    return sorted(
        path.relative_to(root) for path in (root / PACKAGE).rglob("*_pb2*.py*") if path.suffix != ".pyc"
    )


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
