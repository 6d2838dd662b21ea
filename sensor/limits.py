"""Every bound on what the outside may make us read, with its unit and its reason.

One frozen value, passed down explicitly. Nothing else in the package carries a size constant for outside data.
"""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on hostile input. All sizes are bytes, all times are seconds unless the name says otherwise."""

    manifest_bytes: int = 4 * MIB
    """One manifest or index. The OCI distribution specification asks registries for at least this much; containers/image stops here."""
    config_bytes: int = 8 * MIB
    """One image configuration. Real ones stay below 100 KiB; a long history may reach a few MiB."""
    token_bytes: int = 64 * KIB
    """The answer of a token endpoint (the bound of go-containerregistry)."""
    page_bytes: int = 8 * MIB
    """One page of a repository or tag listing. GitLab and Harbor send everything at once when not paged."""
    error_bytes: int = 64 * KIB
    """Body of a failed answer, read for its message only."""
    pages: int = 10_000
    """Pages of one listing. With 100 entries a page this is a million tags; above, the listing is flagged partial."""
    listing_entries: int = 1_000_000
    """Names in one listing, however they are paged."""
    index_depth: int = 4
    """Nesting of image indexes. Two are seen in practice."""
    index_children: int = 1_000
    """Entries of one image index."""
    layers: int = 1_024
    """Layers of one image. Docker's own overlay driver stops at 128."""

    archive_members: int = 100_000
    """Members of one image archive. A hundred images have some thousand; a root file system may have more, and is no archive of images."""
    archive_index_bytes: int = 32 * MIB
    """Names and small documents of one image archive that are kept in memory. A thousand images take about 10 MiB."""
    archive_directory_bytes: int = 256 * MIB
    """The same of all archives in a directory together; the older ones above it are not looked at."""
    archive_files: int = 10_000
    """Files of one directory of image archives; the rest is not looked at."""
    archive_inflated_bytes: int = 256 * GIB
    """Inflated bytes of one image archive that is compressed as a whole."""

    layer_entries: int = 3_000_000
    """Members of one layer's tar. The largest public images have about one million files in all."""
    layer_bytes: int = 64 * GIB
    """Inflated bytes of one layer."""
    layer_ratio: int = 1_500
    """Inflated divided by compressed bytes, counted after the first 64 MiB. DEFLATE cannot exceed 1032; zstd bombs can."""
    path_bytes: int = 4 * KIB
    """One path in a tar; Linux's PATH_MAX. Longer names are counted as a gap and not looked at."""
    header_bytes: int = 1 * MIB
    """One PAX or GNU long-name header in a tar."""
    package_file_bytes: int = 64 * MIB
    """One package database or metadata file that is read into memory (dpkg status of 100 000 packages: 90 MiB never seen)."""
    metadata_file_bytes: int = 4 * MIB
    """One METADATA, PKG-INFO or package.json."""
    spool_bytes: int = 512 * MIB
    """One file that needs random access (rpm database, Go binary), kept in an anonymous temporary file."""
    held_bytes: int = 8 * MIB
    """Of such a file, so much waits in memory; a larger one goes to the temporary file (up to `package_file_bytes`, it stays in memory where
    there is no room for one). With 64 MiB the programs of a Debian image with compilers doubled the memory of the scan."""
    packages_per_layer: int = 500_000
    """Package records of one layer."""
    record_text_chars: int = 1_024
    """Characters of one field of a package record. A longer name or version makes the record a gap, other fields are cut."""
    gaps_per_file: int = 100
    """Unreadable records of one package database that are told one by one; the rest is counted."""
    owned_paths_per_file: int = 200_000
    """Paths that one package database may claim, of those that matter (metadata files and programs). A full desktop has about 10 000."""
    rpm_index_entries: int = 65_535
    """Tags of one rpm header; rpm's own bound (hdrchkTags)."""
    sqlite_steps: int = 20_000_000
    """Virtual machine steps of the query over one rpm database. 10 000 packages take about 200 000."""
    links_per_layer: int = 500_000
    """Symbolic links, hard links and whiteouts kept of one layer. A nix store of a whole desktop has about 100 000."""
    gaps_per_layer: int = 200
    """Gaps of one layer that are named one by one; the rest is counted."""
    child_answer_bytes: int = 512 * MIB
    """What the scanning child may answer: an inventory. 500 000 packages with owned paths stay below a third of it."""
    json_depth: int = 64
    """Nesting of untrusted JSON."""
    child_address_space: int = 4 * GIB
    """RLIMIT_AS of the scanning child; exceeding it is a MemoryError there, and a failed layer here."""
    child_idle_seconds: float = 120.0
    """The child must take or give a byte within this time, else it is killed."""

    advisory_record_bytes: int = 8 * MIB
    """One OSV record. The largest seen is 1.3 MiB (a kernel erratum)."""
    advisory_archive_bytes: int = 4 * GIB
    """One advisory archive on the wire or on disk."""
    advisory_records: int = 5_000_000
    """Records of one archive."""
    advisory_inflated_bytes: int = 64 * GIB
    """Inflated bytes of one archive. The whole public export is below 8 GiB."""
    advisory_text_chars: int = 16_384
    """Characters kept of a record's description; a longer one is cut. Of the summary and of links 1 024 are kept."""
    advisory_aliases: int = 200
    """Names of one vulnerability after closing over aliases. A larger set comes from bad data: then each record keeps its own aliases."""

    envelope_bytes: int = 10_000_000
    """Serialised envelope. The control plane cuts bodies off at 10 MiB and then fails to parse them."""
    indexed_text_bytes: int = 2_600
    """Text that the control plane keeps in a PostgreSQL index; rows above about 2 700 bytes are refused."""
    catalogue_page_bytes: int = 1 * MIB
    """Names in one page of a reported catalogue: about 30 000 tags."""
    answer_bytes: int = 4 * MIB
    """One answer of a control plane."""
    beat_seconds: float = 12.0
    """Longest wait for the answer to a heartbeat or a registration: the next one must not be late because this one hangs."""
    upload_seconds: float = 600.0
    """Longest wait for the answer to an upload: the control plane answers after all its inserts (40 000 rows in 6 s on two cores)."""
    outbox_bytes: int = 2 * GIB
    """Undelivered results, compressed. Above, the oldest results of sweeps go first; the answer to a job is never dropped."""
    outbox_seconds: float = 30 * 86_400.0
    """Age at which an undelivered result of a sweep, or one that was refused, is dropped."""
    parcel_line_bytes: int = 96 * MIB
    """One line of an exported outbox: an entry, compressed and in base64. An incompressible envelope takes 14 MB."""
    parcel_entries: int = 1_000_000
    """Entries of one exported outbox."""
    connect_seconds: float = 15.0
    """TCP and TLS set-up."""
    idle_seconds: float = 60.0
    """Silence of the other side while an answer is awaited or a body is read. There is no total time-out: a large layer takes
    as long as it needs."""


DEFAULT_LIMITS = Limits()
