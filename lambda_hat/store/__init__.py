"""The store: content-addressed directories, published by one rename and verified on opening. Knows no JAX.

`layout` says where everything lies. A directory exists = it is done; work happens under work/ (`lease`, `journal`), and one rename
publishes it (`publish`).
"""

from lambda_hat.store.digest import STAGES, Stage, digest, plain, version_of
from lambda_hat.store.files import (
    finite,
    open_regular,
    parse_object,
    read_arrays,
    read_bytes,
    read_note,
    read_object,
    read_sealed_arrays,
    read_text,
    replace_file,
    take_maker,
    write_arrays,
    write_json,
    write_note,
    write_sealed_arrays,
)
from lambda_hat.store.index import append_line, read_lines, run_line, target_line, write_lines
from lambda_hat.store.layout import RUN_ID, SUMS, TARGET_ID, TRAJECTORY_ID, Paths, root_of
from lambda_hat.store.publish import (
    check_hash,
    check_maker,
    hashes,
    is_done,
    open_config,
    publish,
    read_json,
    seal,
    set_aside,
    sha256,
    workspace,
    write_config,
)
from lambda_hat.store.times import created_at, now, unix_time
from lambda_hat.store.verify import damages

__all__ = [
    "RUN_ID",
    "STAGES",
    "SUMS",
    "TARGET_ID",
    "TRAJECTORY_ID",
    "Paths",
    "Stage",
    "append_line",
    "check_hash",
    "check_maker",
    "created_at",
    "damages",
    "digest",
    "finite",
    "hashes",
    "is_done",
    "now",
    "open_config",
    "open_regular",
    "parse_object",
    "plain",
    "publish",
    "read_arrays",
    "read_bytes",
    "read_json",
    "read_lines",
    "read_note",
    "read_object",
    "read_sealed_arrays",
    "read_text",
    "replace_file",
    "root_of",
    "run_line",
    "seal",
    "set_aside",
    "sha256",
    "take_maker",
    "target_line",
    "unix_time",
    "version_of",
    "workspace",
    "write_arrays",
    "write_config",
    "write_json",
    "write_lines",
    "write_note",
    "write_sealed_arrays",
]
