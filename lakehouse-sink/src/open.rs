//! Finding a topic's table, or making it.

use crate::catalog::{Catalog, Cause, SwapError, TableVersion, WriterEpoch};
use crate::commit::{self, Version};
use crate::progress::{self, Distrust};
use crate::schema::{self, Layout};
use crate::settings::TableSettings;
use crate::storage::Bucket;
use crate::table::TopicRef;
use iceberg::spec::TableMetadata;
use std::sync::Arc;
use varve_cluster::TopicId;

/// How often a lost answer is looked after before the caller is told.
const ATTEMPTS_MAX: usize = 3;

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The bucket or the catalog did not answer. Trying again is safe.
    #[error("the table could not be opened")]
    Unavailable(#[source] Cause),
    /// A newer writer has the table.
    #[error("a newer writer has the table")]
    Fenced,
    /// The table cannot be trusted and a person has to look.
    #[error(transparent)]
    Distrust(#[from] Distrust),
}

fn unavailable(cause: impl Into<Cause>) -> OpenError {
    OpenError::Unavailable(cause.into())
}

pub(crate) async fn load(
    bucket: &Bucket,
    topic_id: TopicId,
    catalog: &dyn Catalog,
) -> Result<Option<Version>, Cause> {
    let Some(pointer) = catalog.load(topic_id).await? else {
        return Ok(None);
    };
    let metadata = commit::read_metadata(&bucket.file_io(), &pointer.metadata_location).await?;
    Ok(Some(Version {
        version: pointer.version,
        location: pointer.metadata_location,
        metadata: Arc::new(metadata),
    }))
}

pub(crate) fn layout_of(metadata: &TableMetadata) -> Result<Layout, Distrust> {
    let fields = metadata
        .properties()
        .get(progress::JSON_FIELDS)
        .map(String::as_str);
    let layout = Layout::new(
        Arc::clone(metadata.current_schema()),
        metadata.last_column_id(),
        fields,
    )
    .map_err(|_cause| Distrust::Unreadable(progress::JSON_FIELDS))?;
    if !layout.has_fixed_columns() {
        return Err(Distrust::FixedColumns);
    }
    Ok(layout)
}

pub(crate) async fn load_or_create(
    bucket: &Bucket,
    topic: &TopicRef,
    epoch: WriterEpoch,
    settings: &TableSettings,
    catalog: &dyn Catalog,
) -> Result<Version, OpenError> {
    if let Some(found) = load(bucket, topic.id, catalog)
        .await
        .map_err(OpenError::Unavailable)?
    {
        return Ok(found);
    }
    let (location, metadata) = write_empty(bucket, topic, epoch, settings)
        .await
        .map_err(unavailable)?;
    let mut lost: Cause = "no answer".into();
    for _ in 0..ATTEMPTS_MAX {
        match catalog
            .commit_if_unchanged(topic.id, epoch, TableVersion::NONE, &location)
            .await
        {
            Ok(version) => {
                return Ok(Version {
                    version,
                    location,
                    metadata: Arc::new(metadata),
                });
            }
            Err(SwapError::Fenced) => return Err(OpenError::Fenced),
            Err(SwapError::Conflict) => (),
            Err(SwapError::NotApplied(cause) | SwapError::Unknown(cause)) => lost = cause,
        }
        if let Some(found) = load(bucket, topic.id, catalog)
            .await
            .map_err(OpenError::Unavailable)?
        {
            if found.location != location {
                bucket.delete_all([location]).await;
            }
            return Ok(found);
        }
    }
    Err(OpenError::Unavailable(lost))
}

async fn write_empty(
    bucket: &Bucket,
    topic: &TopicRef,
    epoch: WriterEpoch,
    settings: &TableSettings,
) -> iceberg::Result<(String, TableMetadata)> {
    let schema = schema::fixed_schema()?;
    let last = schema.highest_field_id();
    let layout = Layout::new(Arc::new(schema), last, None)?;
    let at = bucket.table_location(topic.name.as_str());
    let metadata = commit::empty_table(&at, &layout, topic, epoch, settings)?;
    // A topic of this name may have had a table before. Nothing rests on this listing but that people and scripts
    // who look for the newest metadata file find the new table's.
    let names = bucket.names_in(&format!("{at}/metadata")).await?;
    let newest = names
        .iter()
        .filter_map(|name| commit::metadata_number(name))
        .max();
    let location = commit::metadata_location(&at, newest.map_or(0, |number| number + 1));
    commit::write_metadata(&bucket.file_io(), &location, &metadata).await?;
    Ok((location, metadata))
}
