//! One commit, up to the moment that decides: data files described by a manifest, a manifest list, a snapshot and
//! a new metadata file. Nothing here is visible to anyone until the catalog's pointer moves (table.rs).

use crate::catalog::{TableVersion, WriterEpoch};
use crate::manifests;
use crate::progress::{self, Progress};
use crate::schema::Layout;
use crate::settings::TableSettings;
use crate::storage::Bucket;
use crate::sweep;
use crate::table::TopicRef;
use iceberg::io::FileIO;
use iceberg::spec::{
    DataFile, FormatVersion, MAIN_BRANCH, ManifestFile, ManifestListWriter, ManifestWriterBuilder, Operation,
    Snapshot, SnapshotReference, SnapshotRetention, Summary, TableMetadata, TableMetadataBuilder,
};
use iceberg::{Error, ErrorKind, Result, TableCreation};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use uuid::Uuid;
use varve_cluster::TopicId;
use varve_log::Timestamp;

/// A table as of one version of its pointer.
#[derive(Debug, Clone)]
pub(crate) struct Version {
    pub(crate) version: TableVersion,
    pub(crate) location: String,
    pub(crate) metadata: Arc<TableMetadata>,
}

/// What a commit adds.
pub(crate) struct Append<'a> {
    pub(crate) files: &'a [DataFile],
    pub(crate) layout: &'a Layout,
    /// The progress after it, of all partitions.
    pub(crate) progress: &'a Progress,
    pub(crate) topic_id: TopicId,
    pub(crate) epoch: WriterEpoch,
    pub(crate) now: Timestamp,
}

/// A commit that waits for the pointer.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) snapshot_id: i64,
    pub(crate) location: String,
    pub(crate) metadata: TableMetadata,
    /// Files made for this attempt alone: garbage if it is known not to have happened.
    pub(crate) made: Vec<String>,
    /// Files that only versions older than this one need: garbage once it is known to have happened.
    pub(crate) outlived: BTreeSet<String>,
}

/// The metadata of a table without rows, not yet written.
pub(crate) fn empty_table(
    location: &str,
    layout: &Layout,
    topic: &TopicRef,
    epoch: WriterEpoch,
    settings: &TableSettings,
) -> Result<TableMetadata> {
    let mut properties = table_properties(layout, &Progress::new(), epoch, settings)?;
    properties.insert(progress::TOPIC_ID.to_owned(), topic.id.to_string());
    properties.insert("varve.topic".to_owned(), topic.name.to_string());
    let creation = TableCreation::builder()
        .name(topic.name.to_string())
        .location(location.to_owned())
        .schema(layout.schema().as_ref().clone())
        .properties(properties)
        .format_version(FormatVersion::V2)
        .build();
    Ok(TableMetadataBuilder::from_table_creation(creation)?
        .build()?
        .metadata)
}

fn table_properties(
    layout: &Layout,
    progress: &Progress,
    epoch: WriterEpoch,
    settings: &TableSettings,
) -> Result<HashMap<String, String>> {
    Ok(HashMap::from([
        (progress::OFFSETS.to_owned(), progress::encode(progress)),
        (progress::EPOCH.to_owned(), epoch.to_string()),
        (
            progress::JSON_FIELDS.to_owned(),
            serde_json::to_string(layout.json_fields())?,
        ),
        (
            "write.metadata.previous-versions-max".to_owned(),
            settings.previous_versions_max.to_string(),
        ),
        (
            "write.metadata.delete-after-commit.enabled".to_owned(),
            "true".to_owned(),
        ),
    ]))
}

/// The files of one attempt. Their names carry the epoch and occur nowhere else.
pub(crate) struct Attempt {
    pub(crate) snapshot_id: i64,
    mark: String,
    folder: String,
    made: Vec<String>,
}

impl Attempt {
    fn new(base: &Version, append: &Append<'_>) -> Self {
        let (high, low) = Uuid::new_v4().as_u64_pair();
        let snapshot_id = i64::try_from((high ^ low) >> 1).unwrap_or(i64::MAX);
        let folder = format!("{}/metadata", base.metadata.location());
        Self {
            snapshot_id,
            mark: sweep::mark(append.epoch, append.topic_id),
            folder,
            made: Vec::new(),
        }
    }

    /// A name for a file about to be written.
    pub(crate) fn file(&mut self, what: &str) -> String {
        let at = format!("{}/{}-{what}", self.folder, self.mark);
        self.made.push(at.clone());
        at
    }
}

/// Writes everything but the pointer. On an error nothing refers to what was written, and it has been deleted.
pub(crate) async fn prepare(
    bucket: &Bucket,
    base: &Version,
    append: &Append<'_>,
    settings: &TableSettings,
) -> Result<Prepared> {
    let mut attempt = Attempt::new(base, append);
    let written = write_all(&bucket.file_io(), base, append, settings, &mut attempt).await;
    let Attempt {
        made, snapshot_id, ..
    } = attempt;
    match written {
        Ok((location, metadata, outlived)) => Ok(Prepared {
            snapshot_id,
            location,
            metadata,
            made,
            outlived,
        }),
        Err(cause) => {
            bucket.delete_all(made).await;
            Err(cause)
        }
    }
}

async fn write_all(
    io: &FileIO,
    base: &Version,
    append: &Append<'_>,
    settings: &TableSettings,
    attempt: &mut Attempt,
) -> Result<(String, TableMetadata, BTreeSet<String>)> {
    let mut manifests = manifests::of_snapshot(io, &base.metadata, base.metadata.current_snapshot()).await?;
    if !append.files.is_empty() {
        let at = attempt.file("m0.avro");
        manifests.push(write_manifest(io, at, base, append, attempt.snapshot_id).await?);
    }
    let manifests = manifests::merge_small(io, base, manifests, settings.manifests_max, attempt).await?;
    let list = attempt.file("list.avro");
    let snapshot = write_snapshot(io, base, append, manifests, attempt.snapshot_id, list).await?;

    let expired = manifests::expired(&base.metadata, settings);
    let mut outlived = manifests::only_in(io, &base.metadata, &expired).await?;
    let branch = SnapshotRetention::branch(None, None, None);
    let previous = base.metadata.as_ref().clone();
    let built = TableMetadataBuilder::new_from_metadata(previous, Some(base.location.clone()))
        .add_current_schema(append.layout.schema().as_ref().clone())?
        .set_properties(table_properties(
            append.layout,
            append.progress,
            append.epoch,
            settings,
        )?)?
        .add_snapshot(snapshot)?
        .remove_snapshots(&expired)
        .set_ref(MAIN_BRANCH, SnapshotReference::new(attempt.snapshot_id, branch))?
        .build()?;
    outlived.extend(
        built
            .expired_metadata_logs
            .into_iter()
            .map(|old| old.metadata_file),
    );

    let number = metadata_number(&base.location).map_or(1, |number| number + 1);
    let location = metadata_location(base.metadata.location(), number);
    attempt.made.push(location.clone());
    write_metadata(io, &location, &built.metadata).await?;
    Ok((location, built.metadata, outlived))
}

async fn write_manifest(
    io: &FileIO,
    at: String,
    base: &Version,
    append: &Append<'_>,
    snapshot_id: i64,
) -> Result<ManifestFile> {
    let spec = base.metadata.default_partition_spec().as_ref().clone();
    let schema = Arc::clone(append.layout.schema());
    let mut manifest =
        ManifestWriterBuilder::new(io.new_output(at)?, Some(snapshot_id), schema, spec).build_v2_data();
    for file in append.files {
        // A negative number is inherited from the snapshot, so a manifest need not know which one it will be.
        manifest.add_file(file.clone(), -1)?;
    }
    manifest.write_manifest_file().await
}

async fn write_snapshot(
    io: &FileIO,
    base: &Version,
    append: &Append<'_>,
    manifests: Vec<ManifestFile>,
    snapshot_id: i64,
    list: String,
) -> Result<Snapshot> {
    let sequence = base.metadata.next_sequence_number();
    let parent = base.metadata.current_snapshot_id();
    let output = io.new_output(&list)?.writer().await?;
    let mut writer = ManifestListWriter::v2(output, snapshot_id, parent, sequence);
    writer.add_manifests(manifests.into_iter())?;
    writer.close().await?;
    // Snapshots must not go back in time, not even after the clock did.
    let now = append.now.value().max(base.metadata.last_updated_ms());
    Ok(Snapshot::builder()
        .with_snapshot_id(snapshot_id)
        .with_parent_snapshot_id(parent)
        .with_sequence_number(sequence)
        .with_timestamp_ms(now)
        .with_manifest_list(list)
        .with_summary(Summary {
            operation: Operation::Append,
            additional_properties: summary(&base.metadata, append),
        })
        .with_schema_id(schema_id(base, append))
        .build())
}

/// The id that `add_current_schema` gives: that of an equal schema, or the next one.
fn schema_id(base: &Version, append: &Append<'_>) -> i32 {
    let wanted = append.layout.schema().as_struct();
    let known = base
        .metadata
        .schemas_iter()
        .find(|schema| schema.as_struct() == wanted);
    let next = || {
        base.metadata
            .schemas_iter()
            .map(|schema| schema.schema_id())
            .max()
            .unwrap_or_default()
            + 1
    };
    known.map_or_else(next, |schema| schema.schema_id())
}

fn summary(base: &TableMetadata, append: &Append<'_>) -> HashMap<String, String> {
    let before = |name: &str| {
        let summary = base
            .current_snapshot()
            .map(|snapshot| &snapshot.summary().additional_properties);
        summary
            .and_then(|values| values.get(name)?.parse::<u64>().ok())
            .unwrap_or_default()
    };
    let files = append.files.len() as u64;
    let rows: u64 = append.files.iter().map(DataFile::record_count).sum();
    let bytes: u64 = append.files.iter().map(DataFile::file_size_in_bytes).sum();
    let numbers = [
        ("added-data-files", files),
        ("added-records", rows),
        ("added-files-size", bytes),
        ("total-data-files", before("total-data-files") + files),
        ("total-records", before("total-records") + rows),
        ("total-files-size", before("total-files-size") + bytes),
        ("total-delete-files", 0),
        ("total-position-deletes", 0),
        ("total-equality-deletes", 0),
    ];
    let mut all: HashMap<String, String> = numbers
        .into_iter()
        .map(|(name, number)| (name.to_owned(), number.to_string()))
        .collect();
    all.insert(progress::OFFSETS.to_owned(), progress::encode(append.progress));
    all.insert(progress::EPOCH.to_owned(), append.epoch.to_string());
    all
}

/// `…/metadata/00012-<uuid>.metadata.json`: by name and by age the newest file is the newest version.
pub(crate) fn metadata_location(table_location: &str, number: u64) -> String {
    format!(
        "{table_location}/metadata/{number:05}-{}.metadata.json",
        Uuid::new_v4()
    )
}

/// The number in a metadata file's name.
pub(crate) fn metadata_number(location: &str) -> Option<u64> {
    let name = location.rsplit('/').next()?.strip_suffix(".metadata.json")?;
    name.split('-').next()?.parse().ok()
}

pub(crate) async fn write_metadata(io: &FileIO, location: &str, metadata: &TableMetadata) -> Result<()> {
    let json = serde_json::to_vec(metadata)?;
    io.new_output(location)?.write(json.into()).await
}

pub(crate) async fn read_metadata(io: &FileIO, location: &str) -> Result<TableMetadata> {
    let bytes = io.new_input(location)?.read().await?;
    serde_json::from_slice(&bytes).map_err(|cause| {
        Error::new(ErrorKind::DataInvalid, format!("not table metadata: {location}")).with_source(cause)
    })
}
