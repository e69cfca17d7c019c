//! Keeping metadata small: manifests are merged, old snapshots forgotten, and what nobody refers to is named.
//!
//! A table only ever grows, so forgetting a snapshot never makes a data file garbage: only its manifest list, and
//! manifests that a merge has replaced since.

use crate::commit::{Attempt, Version};
use crate::settings::TableSettings;
use iceberg::io::FileIO;
use iceberg::spec::{
    DataFile, ManifestContentType, ManifestFile, ManifestList, ManifestWriterBuilder, SnapshotRef,
    TableMetadata,
};
use iceberg::{Error, ErrorKind, Result};
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

/// Manifests from this size on are left alone: Iceberg's own default target.
const MANIFEST_BYTES: i64 = 8 << 20;

pub(crate) async fn of_snapshot(
    io: &FileIO,
    metadata: &TableMetadata,
    snapshot: Option<&SnapshotRef>,
) -> Result<Vec<ManifestFile>> {
    let Some(snapshot) = snapshot else {
        return Ok(Vec::new());
    };
    let bytes = io.new_input(snapshot.manifest_list())?.read().await?;
    let list = ManifestList::parse_with_version(&bytes, metadata.format_version())?;
    Ok(list.consume_entries().into_iter().collect())
}

/// The data files of a snapshot, in the order they were added.
pub(crate) async fn data_files(
    io: &FileIO,
    metadata: &TableMetadata,
    snapshot: Option<&SnapshotRef>,
) -> Result<Vec<DataFile>> {
    let mut files = Vec::new();
    for manifest in of_snapshot(io, metadata, snapshot).await? {
        if manifest.content == ManifestContentType::Deletes {
            let what = format!(
                "the table has row deletes, which Varve never writes: {}",
                manifest.manifest_path
            );
            return Err(Error::new(ErrorKind::FeatureUnsupported, what));
        }
        let entries = manifest.load_manifest(io).await?;
        let alive = entries.entries().iter().filter(|entry| entry.is_alive());
        files.extend(alive.map(|entry| entry.data_file().clone()));
    }
    Ok(files)
}

/// Replaces the small manifests by as few as possible once there are too many of them.
pub(crate) async fn merge_small(
    io: &FileIO,
    base: &Version,
    all: Vec<ManifestFile>,
    manifests_max: usize,
    attempt: &mut Attempt,
) -> Result<Vec<ManifestFile>> {
    // The newest manifest has no sequence number yet: it can be merged next time.
    let (small, mut kept): (Vec<_>, Vec<_>) = all.into_iter().partition(|manifest| {
        manifest.manifest_length < MANIFEST_BYTES
            && manifest.content == ManifestContentType::Data
            && manifest.added_snapshot_id != attempt.snapshot_id
    });
    if small.len() <= manifests_max {
        kept.splice(0..0, small);
        return Ok(kept);
    }
    let mut merged = Vec::new();
    for (number, group) in groups(small).into_iter().enumerate() {
        let at = attempt.file(&format!("merged{number}.avro"));
        merged.push(merge(io, base, &group, attempt.snapshot_id, at).await?);
    }
    merged.append(&mut kept);
    Ok(merged)
}

fn groups(small: Vec<ManifestFile>) -> Vec<Vec<ManifestFile>> {
    let mut groups = vec![Vec::new()];
    let mut bytes = 0;
    for manifest in small {
        if bytes + manifest.manifest_length > MANIFEST_BYTES && bytes > 0 {
            groups.push(Vec::new());
            bytes = 0;
        }
        bytes += manifest.manifest_length;
        if let Some(group) = groups.last_mut() {
            group.push(manifest);
        }
    }
    groups
}

async fn merge(
    io: &FileIO,
    base: &Version,
    group: &[ManifestFile],
    snapshot_id: i64,
    at: String,
) -> Result<ManifestFile> {
    let schema = Arc::clone(base.metadata.current_schema());
    let spec = base.metadata.default_partition_spec().as_ref().clone();
    let mut writer =
        ManifestWriterBuilder::new(io.new_output(at)?, Some(snapshot_id), schema, spec).build_v2_data();
    for manifest in group {
        let entries = manifest.load_manifest(io).await?;
        for entry in entries.entries().iter().filter(|entry| entry.is_alive()) {
            let unknown = || {
                Error::new(
                    ErrorKind::DataInvalid,
                    "manifest entry has no snapshot or sequence number",
                )
            };
            let added_by = entry.snapshot_id().ok_or_else(unknown)?;
            let sequence = entry.sequence_number().ok_or_else(unknown)?;
            writer.add_existing_file(
                entry.data_file().clone(),
                added_by,
                sequence,
                entry.file_sequence_number,
            )?;
        }
    }
    writer.write_manifest_file().await
}

/// The oldest snapshots beyond the number to keep. The current one always stays.
pub(crate) fn expired(metadata: &TableMetadata, settings: &TableSettings) -> Vec<i64> {
    let mut all: Vec<_> = metadata.snapshots().collect();
    // The snapshot about to be added counts too.
    let surplus = (all.len() + 1).saturating_sub(settings.snapshots_max.max(2));
    all.sort_by_key(|snapshot| snapshot.sequence_number());
    let current = metadata.current_snapshot_id();
    let old = all.iter().take(surplus).map(|snapshot| snapshot.snapshot_id());
    old.filter(|id| Some(*id) != current).collect()
}

/// The files that only the `expired` snapshots refer to.
pub(crate) async fn only_in(
    io: &FileIO,
    metadata: &TableMetadata,
    expired: &[i64],
) -> Result<BTreeSet<String>> {
    let mut files = BTreeSet::new();
    if expired.is_empty() {
        return Ok(files);
    }
    for id in expired {
        let snapshot = metadata.snapshot_by_id(*id);
        for manifest in of_snapshot(io, metadata, snapshot).await? {
            files.insert(manifest.manifest_path);
        }
        files.extend(snapshot.map(|snapshot| snapshot.manifest_list().to_owned()));
    }
    // A manifest once merged away never comes back, so the oldest snapshot kept has all that are still in use.
    let kept = metadata
        .snapshots()
        .filter(|snapshot| !expired.contains(&snapshot.snapshot_id()));
    let oldest = kept.min_by_key(|snapshot| snapshot.sequence_number());
    for manifest in of_snapshot(io, metadata, oldest).await? {
        files.remove(&manifest.manifest_path);
    }
    Ok(files)
}

/// Those of `candidates` that no version reachable from `metadata` refers to.
pub(crate) async fn unreferenced(
    io: &FileIO,
    current: &Version,
    candidates: impl IntoIterator<Item = String>,
) -> Result<Vec<String>> {
    let metadata = &current.metadata;
    let mut referenced = HashSet::from([current.location.clone()]);
    referenced.extend(
        metadata
            .metadata_log()
            .iter()
            .map(|old| old.metadata_file.clone()),
    );
    for snapshot in metadata.snapshots() {
        referenced.insert(snapshot.manifest_list().to_owned());
        for manifest in of_snapshot(io, metadata, Some(snapshot)).await? {
            referenced.insert(manifest.manifest_path);
        }
    }
    let files = data_files(io, metadata, metadata.current_snapshot()).await?;
    referenced.extend(files.iter().map(|file| file.file_path().to_owned()));
    Ok(candidates
        .into_iter()
        .filter(|file| !referenced.contains(file))
        .collect())
}
